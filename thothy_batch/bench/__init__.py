"""Measures the engine on a workload: requests generated or read, run in this process.

Imports neither DuckDB nor the manifest reader: it runs on machines without them.
"""
