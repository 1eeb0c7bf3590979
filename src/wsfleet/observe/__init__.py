"""Reports, metrics and screens: they read snapshots and `$` topics, and the core knows none of them."""
