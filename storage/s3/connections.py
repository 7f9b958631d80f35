"""What boto3's connections have to do differently: tell an answer that breaks off in its head from a whole one."""

import http.client
import io
import logging
import socket

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection


class WholeResponse(http.client.HTTPResponse):
    """An answer whose status line, header lines and chunk lengths are whole.

    http.client takes the end of a connection for the end of a head, without a word: an entity tag, a length or the
    headers that say what an object is would be cut short, and believed.
    """

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = WholeLines(self.fp.detach())


class WholeLines(io.BufferedReader):
    """A stream whose lines end in a line feed. Raises ConnectionResetError at its end instead of a shorter one."""

    def readline(self, size: int | None = -1) -> bytes:
        """Read a line of `size` bytes at most."""
        line = super().readline(-1 if size is None else size)
        if line.endswith(b"\n") or (size is not None and 0 <= size <= len(line)):
            return line
        raise ConnectionResetError("the answer broke off in the middle of a line")


def require_whole_answers() -> None:
    """Let boto3's connections, those that are opened from now on, take no others.

    That more were open for a moment than are kept is not worth a line in the log for each.
    """
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    for kind in (AWSHTTPConnection, AWSHTTPSConnection):
        kind.response_class = WholeResponse
