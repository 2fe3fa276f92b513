"""YAML to checked settings, Parquet or SQL to a stream of items. Knows no models and no engines."""
