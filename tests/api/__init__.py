"""The API over ASGI: every endpoint, header and status that clients rely on."""
