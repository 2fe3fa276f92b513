"""TODO: one sentence (owner fills in)."""
