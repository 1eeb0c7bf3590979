"""Routes messages to user code: the hub, the mailboxes, and their consumers (processors and subscriptions).

Input: messages with a topic. Output: calls of user functions and sinks, and requests to pause the sources. Imports
core only.
"""
