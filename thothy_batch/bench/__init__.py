"""How fast the engine is on a workload: requests made or read, run in this process, figures.

Runs on a machine that has neither DuckDB nor what reads manifests: nothing of either is imported.
"""
