"""For whoever watches a fleet: nothing in here is imported by the core."""
