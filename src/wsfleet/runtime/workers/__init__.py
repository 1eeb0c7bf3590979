"""Divides one fleet among worker processes, which the coordinator starts and supervises."""
