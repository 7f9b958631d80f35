"""Addresses to listen on, and those of clients."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix:"
SOCKET_PATH_BYTES_MAX = 107
"""What `sun_path` holds (unix(7)), without its closing NUL."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An IP address or a name, and a port (0: the kernel chooses). An empty host is every address."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def is_public(address: TcpAddress | Path) -> bool:
    """Tell whether other machines reach it."""
    return isinstance(address, TcpAddress) and not address.is_loopback


def parse_address(text: str) -> TcpAddress | Path:
    """Parse `host:port`, `[v6]:port`, `:port` or `unix:/path`. Raises ValueError."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        if not path.startswith("/"):
            raise ValueError("the path of a unix socket begins with a slash: unix:/run/pierhead.sock")
        if "\0" in path or len(path.encode("utf-8", "surrogateescape")) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"the path of a unix socket has at most {SOCKET_PATH_BYTES_MAX} bytes")
        return Path(path)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ValueError("expected host:port, [v6]:port, :port or unix:/path, such as 127.0.0.1:5000")
    if host.startswith("[") and host.endswith("]"):
        return TcpAddress(_v6(host[1:-1]), int(port))
    if ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{port}")
    if not all(character.isalnum() or character in "-._" for character in host) or not host.isascii():
        raise ValueError(f"{host!r} is neither an IP address nor the name of a host")
    return TcpAddress(host, int(port))


def parse_network(text: str) -> Network:
    """Parse an address or a network; one of IPv4-mapped IPv6 addresses is that of IPv4. Raises ValueError."""
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return network if mapped is None else ipaddress.IPv4Network((mapped, network.prefixlen - 96))


def is_within(text: str, networks: Iterable[Network]) -> bool:
    """Tell whether an address lies in one of the networks; an IPv4-mapped one is that of IPv4.

    What is no address lies in none.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def _v6(host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"{host!r} is not an IPv6 address") from None
    return host
