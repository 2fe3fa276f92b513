"""Checkpoints: configuration, weights, tokenizer, and one decoder for all supported families."""
