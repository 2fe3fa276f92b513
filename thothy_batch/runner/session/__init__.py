"""Holds what a run has open: options, store paths, locks, stop conditions."""
