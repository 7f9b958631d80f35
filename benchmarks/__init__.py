"""Pierhead measured against other registries on the same machine, in turns, as ratios."""
