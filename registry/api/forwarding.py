"""What a reverse proxy says of the client, believed from named proxies only: anybody can send these headers.

A proxy may add a line of its own behind one that the client has sent: of several lines the last is the proxy's.
"""

import ipaddress
import re
from collections.abc import Callable

from starlette.types import Scope

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]++)++")
_PORT = re.compile(r"(?P<v4>[0-9.]+):[0-9]+|\[(?P<v6>[0-9A-Fa-f:.]+)\](?::[0-9]+)?")


def client_address(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """The address of the client: the last one that no trusted proxy has vouched for. What is no address is none."""
    peer = _peer(scope)
    if not is_trusted(peer):
        return peer
    chain = [text for line in _lines(scope, b"x-forwarded-for") for text in line.split(",")]
    for text in reversed(chain):
        address = _address(text.strip())
        if address is None:
            return peer
        if not is_trusted(address):
            return address
    return peer


def forwarded_prefix(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """The path that a trusted proxy has stripped from the request (X-Forwarded-Prefix), empty or `/...`."""
    if not is_trusted(_peer(scope)):
        return ""
    prefix = _last(scope, b"x-forwarded-prefix").rstrip("/")
    return prefix if _PREFIX.fullmatch(prefix) else ""


def forwarded_scheme(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """How the client has sent its request, `http` or `https`: as a trusted proxy says (X-Forwarded-Proto)."""
    told = _last(scope, b"x-forwarded-proto").strip().lower() if is_trusted(_peer(scope)) else ""
    return told if told in {"http", "https"} else str(scope["scheme"])


def forwarded_host(scope: Scope, is_trusted: Callable[[str], bool]) -> str:
    """The host and port that the client has named, as it or a trusted proxy says (X-Forwarded-Host); unchecked."""
    told = _last(scope, b"x-forwarded-host").strip() if is_trusted(_peer(scope)) else ""
    return told or _last(scope, b"host").strip()


def _address(text: str) -> str | None:
    """An address as a proxy writes it, some of them with a port; None if it is none."""
    with_port = _PORT.fullmatch(text)
    try:
        return str(ipaddress.ip_address((with_port["v4"] or with_port["v6"]) if with_port else text))
    except ValueError:
        return None


def _peer(scope: Scope) -> str:
    # On a unix socket there is no address: the socket's mode says who may speak, and it is the proxy.
    client = scope.get("client")
    return str(client[0]) if client else "unix"


def _lines(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _last(scope: Scope, name: bytes) -> str:
    lines = _lines(scope, name)
    return lines[-1] if lines else ""
