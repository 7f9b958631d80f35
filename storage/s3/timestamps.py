"""Times as stores give them."""

from datetime import datetime
from email.utils import parsedate_to_datetime

from botocore.utils import parse_timestamp


def read_timestamp(value: str) -> datetime:
    """Read a time in the two forms that stores give: RFC 9110, 5.6.7 in headers, ISO 8601 in bodies.

    botocore's own way guesses the form, which takes a seventh of a whole call, and of a listing most of the time.
    Raises ValueError.
    """
    try:
        time = datetime.fromisoformat(value) if "T" in value[4:12] else parsedate_to_datetime(value)
    except (TypeError, ValueError):
        time = None
    return time if time is not None and time.tzinfo is not None else parse_timestamp(value)
