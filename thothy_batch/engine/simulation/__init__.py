"""Runs the scheduler on a simulated device to predict time. No torch."""
