"""Hostile clients against a real server: one test at least for each case of docs/explanation/hostile-clients.md."""
