"""Where the server listens: an address is bound once, before there are workers."""

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from registry.addresses import UNIX, TcpAddress, parse_address

UNIX_MODE = 0o660
BACKLOG = 2048


class ListenError(Exception):
    """The address can't be listened on; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening socket. `path` is that of a UNIX socket; `tls` tells what is spoken on it."""

    socket: socket.socket
    path: Path | None = None
    tls: bool = False

    @classmethod
    def bind(cls, listen: str, *, tls: bool = False) -> Self:
        """Listen on `host:port`, `[v6]:port`, `:port` or `unix:/path`. Raises ListenError."""
        try:
            address = parse_address(listen)
            if isinstance(address, Path):
                return cls(_bind_unix(address), address, tls)
            return cls(_bind_tcp(address), tls=tls)
        except ValueError as error:
            raise ListenError(f"cannot listen on {listen}: {error}") from error
        except OSError as error:
            raise ListenError(f"cannot listen on {listen}: {_reason(error)}") from error

    @property
    def url(self) -> str:
        """`http://host:port` or `https://host:port` with the true port, or `unix:/path`."""
        if self.path is not None:
            return f"{UNIX}{self.path}"
        scheme = "https" if self.tls else "http"
        host, port = self.socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def close(self) -> None:
        """Stop listening in this process."""
        self.socket.close()

    def remove(self) -> None:
        """Remove what the socket left in the file system, once no process listens any more."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def _bind_tcp(address: TcpAddress) -> socket.socket:
    if not address.host:
        return _listen_everywhere(address.port)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    return _listen(socket.socket(family, kind, protocol), where)


def _listen_everywhere(port: int) -> socket.socket:
    """One socket for IPv4 and IPv6, or for IPv4 alone where the kernel has no IPv6."""
    if socket.has_dualstack_ipv6():
        both = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        return _listen(both, ("::", port))
    return _listen(socket.socket(socket.AF_INET, socket.SOCK_STREAM), ("0.0.0.0", port))  # noqa: S104 - as asked


def _listen(listener: socket.socket, where: object) -> socket.socket:
    try:
        # Without it a restart would fail while old connections are in TIME_WAIT (tcp(7)).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)  # type: ignore[arg-type] # what getaddrinfo gives for the family
        listener.listen(BACKLOG)
        listener.settimeout(0.0)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_unix(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode must be right from the first moment on: bind(2) creates the file with what umask(2) leaves.
        umask = os.umask(0o777 & ~UNIX_MODE)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.listen(BACKLOG)
        listener.settimeout(0.0)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed server left. Raises OSError if somebody listens, or if it is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file of that name that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # EAGAIN of unix(7): somebody listens, and the queue is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
