"""Much at once: many uploads, a large one, and everything that clients do in random order."""
