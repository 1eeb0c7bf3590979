"""What `make fuzz` runs."""
