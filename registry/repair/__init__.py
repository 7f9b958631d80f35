"""Repair: what verification finds is put right where it can be known what is right, or fetched from elsewhere."""
