"""Decides each batch: queues, admission, preemption, deadlines. No torch."""

__all__: list[str] = []
