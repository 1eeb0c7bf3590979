"""Plain data and pure functions: options, messages, errors, counters, topics, retry delays.

Input: values that a user declares or a peer sends. Output: immutable records and decisions. Imports no other package
of wsfleet.
"""

__version__ = "0.1.0"
