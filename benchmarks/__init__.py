"""Measure speed and compare with plainly written code: `python -m benchmarks`."""
