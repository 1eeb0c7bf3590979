"""The seam to the wire library. Only `base` is known to the rest of wsfleet; the adapter is loaded by name."""
