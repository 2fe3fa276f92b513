"""The write-ahead journal: framed records in segments, durable in groups."""
