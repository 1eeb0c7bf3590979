"""One server kept alive: connect, log in, receive, detect a loss, wait, connect again.

In: an `Endpoint`. Out: numbered messages for the hub, state changes, and the `Connection` that users hold.
Imports core, transport and pipeline.
"""
