"""Runs an engine in a child process and restarts it when it dies."""
