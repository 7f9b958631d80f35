"""Many clients at the same things at once, through several workers."""
