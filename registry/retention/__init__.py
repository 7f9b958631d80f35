"""Retention: which tags are kept, which are dropped, and why; nothing is dropped before that could be seen."""
