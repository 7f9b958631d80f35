"""Retention: what the rules say, and what becomes of a store."""
