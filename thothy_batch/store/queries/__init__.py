"""Reads the store: reports, exports, cached results, past output lengths."""
