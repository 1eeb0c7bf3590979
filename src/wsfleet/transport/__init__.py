"""Sockets and frames: connects to a server, does the opening handshake, and converts between bytes and messages.

Input: a `DialRequest`, bytes of the peer. Output: batches of payloads for a `Receiver`. Imports only core.
"""
