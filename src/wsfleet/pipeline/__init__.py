"""From a topic to your code: the hub, the mailboxes, and their readers (processors and subscriptions).

Input: messages with a topic. Output: calls of user functions and sinks; pause requests to the sources. Imports core.
"""
