"""Bytes, keys and digests: what Pierhead keeps, and how it survives a power cut."""
