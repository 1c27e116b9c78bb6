"""Helpers that know nothing of matching images with sentences."""
