"""The log: one line an event, on standard error; nothing from the wire can begin another line."""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def set_up_logs(*, level: str, style: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Configure structlog for this process and those forked from it; `stream` is standard error unless given."""
    stream = stream or sys.stderr
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if style == "json":
        processors.append(structlog.processors.JSONRenderer(sort_keys=True, default=str))
    else:
        processors += [_on_one_line, structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def _on_one_line(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    # A tag or a header may hold CR, LF or the escape sequences of a terminal. Only a traceback has several lines.
    return {key: _plain(value) if key != "exception" else value for key, value in event.items()}


def _plain(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():
        return repr(value)[1:-1]
    return value
