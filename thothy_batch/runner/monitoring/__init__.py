"""Shows a run while it goes on: progress, status file, metrics, event log."""
