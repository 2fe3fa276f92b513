"""What a checkpoint is: its configuration, weights, tokenizer, and one decoder for all families."""
