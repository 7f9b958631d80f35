"""What a reverse proxy says of the client, believed from named proxies only: anybody can send these headers."""

import re
from collections.abc import Callable

from starlette.types import Scope

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]++)++")


def client_address(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """The address of the client: the last one that no trusted proxy has vouched for."""
    peer = _peer(scope)
    if not is_trusted(peer):
        return peer
    chain = [address.strip() for address in _header(scope, b"x-forwarded-for").split(",")]
    for address in reversed(chain):
        if address and not is_trusted(address):
            return address if address.isascii() and address.isprintable() else peer
    return peer


def forwarded_prefix(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """The path that a trusted proxy has stripped from the request (X-Forwarded-Prefix), empty or `/...`."""
    if not is_trusted(_peer(scope)):
        return ""
    prefix = _header(scope, b"x-forwarded-prefix").rstrip("/")
    return prefix if _PREFIX.fullmatch(prefix) else ""


def _peer(scope: Scope) -> str:
    # On a unix socket there is no address: the socket's mode says who may speak, and it is the proxy.
    client = scope.get("client")
    return str(client[0]) if client else "unix"


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def forwarded_scheme(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """How the client has sent its request, `http` or `https`: as a trusted proxy says (X-Forwarded-Proto)."""
    told = _header(scope, b"x-forwarded-proto").strip().lower() if is_trusted(_peer(scope)) else ""
    return told if told in {"http", "https"} else str(scope["scheme"])


def forwarded_host(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """The host and port that the client has named, as it or a trusted proxy says (X-Forwarded-Host); unchecked."""
    told = _header(scope, b"x-forwarded-host").strip() if is_trusted(_peer(scope)) else ""
    return told or _header(scope, b"host").strip()
