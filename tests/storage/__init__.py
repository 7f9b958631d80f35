"""Storage: every driver against one contract, and what only one of them can do wrong."""
