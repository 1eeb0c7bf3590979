"""The cost of a message in wsfleet, compared with hand-written loops. See README.md."""
