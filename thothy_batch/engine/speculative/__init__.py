"""Proposes draft tokens by prompt lookup and decides how many to verify. No torch."""

__all__: list[str] = []
