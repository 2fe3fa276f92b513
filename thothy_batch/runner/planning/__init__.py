"""Builds the plan of a run from its manifest: entries, order, engine settings, predicted time."""
