"""The log: one line an event, on standard error; nothing from the wire can begin another line."""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_LEVELS = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)


def set_up_logs(*, level: str, style: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Configure structlog for this process and those forked from it; `stream` is standard error unless given.

    What libraries log, and Python's warnings, go the same way, from warnings upwards.
    """
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
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
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(threshold, logging.WARNING), force=True)
    logging.captureWarnings(capture=True)


class _FromLibraries(logging.Handler):
    """Hands over what asyncio, uvicorn and others log: without it their lines would reach the stream as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((known for known in _LEVELS if record.levelno >= known), logging.DEBUG)
        structlog.get_logger().log(level, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _on_one_line(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    # A tag or a header may hold CR, LF or the escape sequences of a terminal, and stand in the message of an error.
    if "exception" in event:
        event["traceback"] = _joined(event.pop("exception"))
    return {key: _plain(value) for key, value in event.items()}


def _joined(traceback: str) -> str:
    """A traceback on one line, without the marks under its source lines."""
    return " | ".join(line.strip() for line in traceback.splitlines() if line.strip(" ^~"))


def _plain(value: object) -> object:
    if isinstance(value, bool | int | float | None):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() else repr(text)[1:-1]
