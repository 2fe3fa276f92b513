"""One run from lock to exit code, and what can be known without one. Knows nothing of tensors."""

__all__: list[str] = []
