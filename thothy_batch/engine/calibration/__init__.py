"""Measures the speed of the device and of a loaded model."""
