"""Builds device batches and runs the model and the sampler on the CPU or a GPU."""

__all__: list[str] = []
