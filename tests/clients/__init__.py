"""Pierhead as real clients meet it."""
