"""Garbage collection while pushes go on: what is reachable, and taking what is not.

docs/decisions/0014-garbage-collection.md says why it is safe.
"""
