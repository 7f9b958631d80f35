"""The log: one line an event, whatever the wire, a library or an exception put into it."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from registry.logs import set_up_logs

FORGED = "x\r\n2026-01-01T00:00:00Z [info     ] forged\x1b[2J\u2028\x85\x0b\u202e"
Style = Literal["text", "json"]


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def started(style: Style, level: str = "info") -> tuple[structlog.typing.FilteringBoundLogger, io.StringIO]:
    """Set up the log to go to a string; returns a logger and the string."""
    stream = io.StringIO()
    set_up_logs(level=level, style=style, stream=stream)
    return structlog.get_logger(), stream


def lines(stream: io.StringIO) -> list[str]:
    """Return the lines as any reader might split them; every character must be harmless to a terminal."""
    found = stream.getvalue().splitlines()
    assert all(line.isprintable() for line in found)
    return found


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_event_with_anything_from_the_wire_is_one_line(style: Style) -> None:
    log, stream = started(style)

    log.warning(FORGED, path=FORGED, raw=FORGED.encode(), several=[FORGED], error=ValueError(FORGED))

    [line] = lines(stream)
    assert "forged" in line


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_with_anything_from_the_wire_is_one_line_with_its_traceback(style: Style) -> None:
    log, stream = started(style)

    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("failed")

    [line] = lines(stream)
    assert "test_logs.py" in line
    assert "ValueError" in line


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_libraries_log_and_warn_of_is_one_line_each(style: Style) -> None:
    _, stream = started(style)

    logging.getLogger("asyncio").error("never retrieved: %s", FORGED, exc_info=ValueError(FORGED))
    logging.getLogger("uvicorn.error").info("noise")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn(FORGED, stacklevel=1)

    of_library, of_python = lines(stream)
    assert "asyncio" in of_library
    assert "UserWarning" in of_python


@given(event=st.text(), value=st.text() | st.binary() | st.lists(st.text(), max_size=2))
def test_any_text_is_one_line_of_either_style(event: str, value: object) -> None:
    for style in ("text", "json"):
        log, stream = started(style)

        log.info(event, value=value)

        assert len(lines(stream)) == 1


def test_a_line_for_machines_is_an_object_that_holds_the_text_as_it_was() -> None:
    log, stream = started("json")

    log.error("failed", path=FORGED, status=500)

    written = json.loads(stream.getvalue())
    assert (written["event"], written["level"], written["path"], written["status"]) == ("failed", "error", FORGED, 500)
    assert written["timestamp"].endswith("Z")


def test_what_is_below_the_level_is_not_logged() -> None:
    log, stream = started("text", level="error")

    log.warning("below")
    logging.getLogger("asyncio").warning("below")
    log.error("above")

    [line] = lines(stream)
    assert "above" in line
