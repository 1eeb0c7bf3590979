"""Publishes the state of a fleet: metrics, the status page and its API.

Input: snapshots and `$` topics. Output: HTTP responses and metrics. Imports core, pipeline and fleet.
"""
