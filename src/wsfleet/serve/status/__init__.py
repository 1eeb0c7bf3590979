"""The status page and the HTTP API below it."""
