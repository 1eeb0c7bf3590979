"""Shows a fleet to others: metrics, the status page and its API.

In: snapshots and `$` topics. Out: HTTP responses and metrics. Imports core, pipeline and fleet.
"""
