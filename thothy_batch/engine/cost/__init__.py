"""Predicts a step and the roofline from measured speed; caches the measurements. No torch."""
