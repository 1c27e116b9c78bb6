"""Interchangeable image-text-matching backbones, losses and evaluation."""

__version__ = "0.1.0"
