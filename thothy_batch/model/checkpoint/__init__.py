"""Finds the files of a checkpoint: embedded, in a directory, or on the hub. No torch."""
