"""From topic to your code: the hub, the mailboxes, and what empties them (processors and subscriptions).

In: messages with a topic. Out: calls of user functions and sinks; pause requests to the sources. Imports core only.
"""
