"""Reads manifests into validated settings, and Parquet or SQL inputs into streams of items."""
