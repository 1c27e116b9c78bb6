"""What runs leave behind: records, score matrices, tables, history, sweeps."""
