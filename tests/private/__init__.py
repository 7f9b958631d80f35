"""A private registry from end to end: served by its processes, asked over HTTP."""
