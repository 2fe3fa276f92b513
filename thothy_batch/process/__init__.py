"""Starts, watches and ends child processes; replaces files atomically. Standard library only."""
