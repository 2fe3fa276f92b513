"""The command line: options in; tables, documents and exit codes out. Contains no other logic."""

__all__ = ["main", "signals"]
