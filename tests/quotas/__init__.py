"""Quotas and usage, by real servers."""
