"""How fast, measured beside plainly written code: `python -m benchmarks`."""
