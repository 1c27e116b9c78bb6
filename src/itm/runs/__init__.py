"""Read, compare and keep the results of runs."""
