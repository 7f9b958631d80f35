"""Damage of every kind: what clients see of it, what verification says, and what repairs it."""
