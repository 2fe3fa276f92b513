"""Decides each batch: queues, admission, preemption, deadlines. No torch."""
