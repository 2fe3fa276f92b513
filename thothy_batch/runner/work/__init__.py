"""Tracks pending requests: assignment to entries, attempts, stages, counts, roofline receipt."""
