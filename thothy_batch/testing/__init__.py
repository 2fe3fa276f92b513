"""Fault points that tests arm inside the product."""
