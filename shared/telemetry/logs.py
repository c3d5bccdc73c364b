"""
Logs: one record is one line of JSON on standard output, whoever wrote it.

    log = structlog.get_logger()
    with bound(batch_id=batch.id, source=batch.source, table=batch.table, stage="gate-tmp", attempt=1):
        log.info("gate_opened", file_count=3)

Whoever works on a batch binds these five once, and its trace: workers in `shared.stage`, Lambdas in `lambdas.subject`.
The event is a constant, the facts are fields. Line breaks and control characters in any value come out escaped,
so no value can look like another record or move a terminal's cursor; secrets and endless values are cut out
(`shared.telemetry.redaction`).
"""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, TextIO, TypedDict, Unpack

import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, clear_contextvars, merge_contextvars
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.telemetry.redaction import harmless

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

#: Libraries that tell requests and answers, secrets included, when asked for more than warnings.
QUIET_LOGGERS: Final = ("boto3", "botocore", "s3transfer", "urllib3")

_MAX_FRAMES: Final = 20
_FIRST_FIELDS: Final = ("timestamp", "level", "service", "event")


def configure_logging(service: str, *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """
    Let every log record of this process leave as one line of JSON on standard output, or on another stream.

    That holds for structlog, for the standard library's loggers (boto3, Celery, SQLAlchemy), for warnings, and
    for exceptions that nobody caught, also in threads. Called once, at the start; again, it replaces the former.

    Raises:
        ValueError: if the level is none of DEBUG, INFO, WARNING, ERROR, CRITICAL.
    """
    if level not in LEVELS:
        raise ValueError(f"log level should be one of {', '.join(LEVELS)}, found {level!r}")
    shared = _shared_processors(service)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _OneLineHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _rendered],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    _log_what_nobody_caught()


class Ids(TypedDict, total=False):
    """What a record is about. `None` and what is left out stays as it was."""

    batch_id: str | None
    source: str | None
    table: str | None
    #: `extract`, `process`, `publish`, `gate-tmp` … `gate-final`, `clean`.
    stage: str | None
    attempt: int | None
    trace_id: str | None


@contextmanager
def bound(**ids: Unpack[Ids]) -> Iterator[None]:
    """Let every record within the block tell what it is about. Blocks nest."""
    with bound_contextvars(**_known(ids)):
        yield


def bind(**ids: Unpack[Ids]) -> None:
    """
    Let every record from now on tell what it is about, until `let_go_of_ids`.

    For tasks: what Celery tells of one that failed, it tells after the task's own code has ended. Threads that a task
    starts tell it too if they run in a copy of its context.
    """
    bind_contextvars(**_known(ids))


def let_go_of_ids() -> None:
    """Let records be about nothing again."""
    clear_contextvars()


def _known(ids: Ids) -> dict[str, object]:
    return {name: value for name, value in ids.items() if value is not None}


def _shared_processors(service: str) -> list[Processor]:
    def add_service(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
        fields["service"] = service
        return fields

    return [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        # Without locals: they hold rows and secrets.
        structlog.processors.ExceptionRenderer(
            ExceptionDictTransformer(show_locals=False, max_frames=_MAX_FRAMES)
        ),
    ]


def _rendered(_: WrappedLogger, __: str, fields: EventDict) -> str:
    """Return a record as one line: what it is first, then its fields."""
    ordered = {name: fields.pop(name) for name in _FIRST_FIELDS if name in fields} | dict(fields)
    # ASCII only: JSON leaves line separators, C1 control characters and lone surrogates as they are.
    return json.dumps(harmless(ordered), ensure_ascii=True, allow_nan=False)


class _OneLineHandler(logging.StreamHandler[TextIO]):
    """Tells also of a record that cannot be written in one line; its own text might hold anything."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        fields = {"level": "error", "event": "log_record_not_written", "logger": record.name}
        with suppress(OSError, ValueError):  # Standard output itself is gone.
            self.stream.write(json.dumps(fields) + self.terminator)
            self.flush()


def _log_what_nobody_caught() -> None:
    log = structlog.get_logger("uncaught")

    def of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        log.critical("uncaught_exception", exc_info=(kind, error, trace))

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            thread = args.thread.name if args.thread else None
            error = (args.exc_type, args.exc_value, args.exc_traceback)
            log.critical("uncaught_exception", thread=thread, exc_info=error)

    sys.excepthook = of_process
    threading.excepthook = of_thread
