"""One server kept alive: connect, log in, receive, detect a loss, wait, connect again.

Input: an `Endpoint`. Output: numbered messages for the hub, state changes, and the `Connection` that users hold.
Imports core, transport and pipeline.
"""
