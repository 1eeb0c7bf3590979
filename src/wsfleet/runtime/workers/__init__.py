"""One fleet divided over several worker processes, which the coordinator starts and supervises."""
