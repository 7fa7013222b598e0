"""Starts runs: one a key, one at a time, whoever asks and however often."""
