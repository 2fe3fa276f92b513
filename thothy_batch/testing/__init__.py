"""Fault points that tests arm inside the product."""

__all__ = ["faults"]
