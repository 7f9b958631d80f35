"""The rules of OCI, tested without HTTP."""
