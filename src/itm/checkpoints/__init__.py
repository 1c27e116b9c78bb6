"""Saved folders and checkpoints: strict loading, starting from other weights, the hub."""
