"""What runs leave behind: records, tables, history."""
