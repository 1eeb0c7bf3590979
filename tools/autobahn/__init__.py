"""Autobahn|Testsuite against a client made of a `Fleet`: `make autobahn`."""
