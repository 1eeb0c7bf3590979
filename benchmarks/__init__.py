"""What a message costs in wsfleet, beside the loops that people write by hand. See README.md."""
