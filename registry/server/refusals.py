"""What the server answers by itself, before or instead of the application."""

import json
from http import HTTPStatus

from registry.server.framing import Refused

BODY_TOO_SLOW = Refused(408, "the body came too slowly")
HEAD_TOO_SLOW = Refused(408, "the request did not come in time")
HEAD_TOO_LONG = Refused(431, "request line and headers are too long")
TOO_MANY_CONNECTIONS = Refused(503, "too many connections: try again", code="UNAVAILABLE")
FAILED = Refused(500, "internal error: see the log of the server", code="UNKNOWN")

RETRY_AFTER_SECONDS = 2


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


STATUS_LINES = {status: status_line(status) for status in range(200, 600)}


def render(refused: Refused, *, date_line: bytes, with_body: bool = True) -> bytes:
    """The whole answer, with the error envelope of the distribution spec. It ends the connection."""
    envelope = {"errors": [{"code": refused.code, "message": refused.message}]}
    body = json.dumps(envelope, separators=(",", ":")).encode()
    retry = b"retry-after: %d\r\n" % RETRY_AFTER_SECONDS if refused.status == 503 else b""
    return b"".join(
        (
            status_line(refused.status),
            date_line,
            b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
            retry,
            b"connection: close\r\n\r\n",
            body if with_body else b"",
        )
    )
