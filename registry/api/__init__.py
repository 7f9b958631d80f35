"""Requests in, one call, responses out: the OCI distribution API over ASGI."""
