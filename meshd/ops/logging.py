"""Logs: one structured line an event on stderr, from our own code and from libraries alike.

Rule: every line passes one redaction, the last step before it is written; nothing else in meshd hides secrets.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Final, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

REDACTED: Final = "[redacted]"

SECRET_KEYS: Final = frozenset(
    {
        "authorization",
        "chunk",
        "input",
        "output",
        "password",
        "payload",
        "private_key",
        "progress_message",
        "request",
        "secret",
        "tls_key_pem",
        "token",
    }
)
"""Keys whose values are never logged; so is every key that ends in _token, _secret or _password."""

SECRET_SUFFIXES: Final = ("_token", "_secret", "_password", "_payload")

LONG_KEYS: Final = frozenset({"exception", "stack"})
"""Keys whose values have lines of their own."""

SECRET_TEXT: Final = re.compile(
    r"eyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?"  # a JWT
    r"|(?<=[Bb]earer )[\w.~+/=-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)

LIBRARY_LEVELS: Final = {
    "asyncio": logging.WARNING,
    "alembic": logging.WARNING,
    "sqlalchemy": logging.WARNING,
}

GRPC_LOGGER: Final = "grpc._cython.cygrpc"
BROKEN_CALL: Final = "ExecuteBatchError raised in core"
"""What gRPC says, with a traceback, of an answer whose peer has gone: at the peer's pace, and no fault of meshd."""


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process to the stream (stderr), from this level on, as json or text."""
    target = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        else [_printable, structlog.dev.ConsoleRenderer(colors=target.isatty(), sort_keys=False)]
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                *render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.getLogger(GRPC_LOGGER).addFilter(_of_no_broken_call)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _of_no_broken_call(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(BROKEN_CALL)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace secrets and payloads, by the name of their key or by their looks."""
    return {key: REDACTED if _is_secret(key) else _clean(value) for key, value in event.items()}


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Let nothing that others sent steer a terminal or look like another line; JSON escapes it anyway."""
    return {
        key: _escaped(value, kept="\n\t" if key in LONG_KEYS else "") if isinstance(value, str) else value
        for key, value in event.items()
    }


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode()
        for each in text
    )


def _is_secret(key: object) -> bool:
    name = str(key).lower().replace("-", "_")
    return name in SECRET_KEYS or name.endswith(SECRET_SUFFIXES)


def _clean(value: object) -> object:
    if isinstance(value, str):
        return SECRET_TEXT.sub(REDACTED, value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {key: REDACTED if _is_secret(key) else _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return SECRET_TEXT.sub(REDACTED, str(value))
