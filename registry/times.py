"""Times as people write them, and as they are shown to them."""

import re
from datetime import UTC, datetime

_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)


def parse_time(text: str, *, is_local: bool = False) -> float:
    """Read an ISO 8601 time such as 2026-11-01T12:00, as seconds since the epoch. Raises ValueError.

    Without a zone it is in that of this machine if `is_local`, else in UTC.
    """
    try:
        if not _TIME.fullmatch(text):
            raise ValueError("it has another form")
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.astimezone() if is_local else found.replace(tzinfo=UTC)
        return found.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text[:64]!r} is no time: expected such as 2026-11-01T12:00 or 2026-11-01T12:00:00Z"
        ) from None


def utc_time(seconds: float) -> str:
    """A time for programs to read, in UTC (RFC 3339)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def local_time(seconds: float) -> str:
    """A time for people to read, to the second, with the zone of this machine."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
