"""Numbers as people write them: sizes with a unit of bytes, times with a unit of time."""

import re
from typing import Annotated

from pydantic import BeforeValidator

_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)", re.ASCII)

BYTES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
"""Binary units only: who writes MB may mean either, and is asked."""

SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(value: object) -> object:
    """Turn a text such as `4 MiB` into bytes; other values are left to their type. Raises ValueError."""
    if not isinstance(value, str):
        return parse_count(value)
    number, unit = _split(value, BYTES, "a number of bytes, or a size such as 512 KiB, 4 MiB or 10 GiB")
    size = number * BYTES[unit]
    if size != int(size):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(size)


def parse_rate(value: object) -> object:
    """Turn a text such as `20 MiB/s` into bytes a second; other values are left to their type. Raises ValueError."""
    if not isinstance(value, str):
        return parse_count(value)
    try:
        return parse_bytes(value.strip().removesuffix("/s"))
    except ValueError:
        raise ValueError("expected a number of bytes a second, or a rate such as 512 KiB/s or 20 MiB/s") from None


def short_bytes(count: int) -> str:
    """A number of bytes with the largest unit of which there is one and at most one decimal, rounded down: 1.5 GiB."""
    size, unit = count, "B"
    tenths = 0
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1 << 10:
            break
        size, tenths, unit = size >> 10, (size % 1024) * 10 >> 10, larger
    return f"{size}.{tenths} {unit}" if tenths else f"{size} {unit}"


def parse_seconds(value: object) -> object:
    """Turn a text such as `5m` into seconds; other values are left to their type. Raises ValueError."""
    if not isinstance(value, str):
        return parse_count(value)
    number, unit = _split(value, SECONDS, "a number of seconds, or a time such as 500ms, 30s, 5m, 1h or 1d")
    return number * SECONDS[unit]


def parse_count(value: object) -> object:
    """Leave a number to its type. Raises ValueError for true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


def _split(text: str, units: dict[str, int] | dict[str, float], expected: str) -> tuple[float, str]:
    matched = _QUANTITY.fullmatch(text.strip())
    unit = matched[2].lower() if matched else ""
    if matched is None or unit not in units:
        raise ValueError(f"expected {expected}")
    return float(matched[1]), unit


Count = Annotated[int, BeforeValidator(parse_count)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Rate = Annotated[int, BeforeValidator(parse_rate)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
