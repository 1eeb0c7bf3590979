"""The public object `Fleet`: declaring its parts, its start, its end, snapshots of its counters.

Input: declarations by the user. Output: running endpoints and processors, and immutable statistics. Imports core,
transport, pipeline and endpoint.
"""
