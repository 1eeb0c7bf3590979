"""Plain data and pure rules: options, messages, errors, counters, topics, retry delays.

In: values that a user declares or a peer sends. Out: immutable records and decisions. Imports nothing else of wsfleet.
"""

__version__ = "0.1.0"
