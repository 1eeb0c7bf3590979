"""Sockets and frames: dials a server, does the handshake, and turns bytes into whole messages and back.

In: a `DialRequest` to dial, bytes of the peer. Out: batches of payloads, given to a `Receiver`. Imports core only.
"""
