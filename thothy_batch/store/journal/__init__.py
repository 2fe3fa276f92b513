"""The write-ahead journal: framed records in segments, durable in groups."""

__all__: list[str] = []
