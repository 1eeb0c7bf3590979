"""The public object `Fleet` and its life: what is declared, how it starts, how it ends.

In: declarations by the user. Out: running endpoints and processors, and snapshots of their counters.
Imports core, transport, pipeline and endpoint.
"""
