"""Where log lines go: standard error, as words or as JSON, and never with a preference or a token in them.

While a run is under way each line has its id as `run`. `docs/logs.md` has every event, its level and its fields.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Literal

import structlog

from sync_job.runs.sampling import Sampler

_log = structlog.get_logger()
_FIRST = ("timestamp", "level", "event", "run")
# What may come by the thousand, and what tells such events apart; the other fields are those of the last.
_REPEATED = frozenset({"change.refused", "change.exhausted", "endpoint.pause", "breaker.opened", "breaker.closed"})
_APART = ("status", "code")
_MOST_KINDS = 50  # then the others are told together: a platform may have a code of its own for each row


def configure(format_: Literal["console", "json"], level: str) -> None:
    """Write log lines of *level* and above to standard error."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if format_ == "json"
        else structlog.dev.ConsoleRenderer(colors=coloured())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _in_order,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def coloured() -> bool:
    """Return whether standard error is a terminal, and nobody said `NO_COLOR`."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _in_order(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Return the fields as people look for them: when, how grave, what, of which run, and then the others."""
    return {name: event[name] for name in _FIRST if name in event} | dict(event)


def begin(run: str) -> None:
    """Have each line from now on say that it is of this run."""
    structlog.contextvars.bind_contextvars(run=run)


@contextlib.contextmanager
def of_its_own() -> Iterator[None]:
    """Let what is logged after the block be of no run that began in it; what repeated in it is told by then."""
    try:
        yield
    finally:
        flush()
        structlog.contextvars.unbind_contextvars("run")


class Repeated:
    """Logs what may happen a hundred thousand times in one line a minute, with how often as `count`.

    Before the log, not in it: what is not told costs a look into a table, whatever the log is made of.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sampler = Sampler()
        self._last: dict[Hashable, dict[str, object]] = {}

    def tell(self, event: str, **fields: object) -> None:
        """Log an event of a delivery, or count it for a later line.

        At INFO: a run that ends well all the same must not wake anybody.
        """
        if event not in _REPEATED:
            _log.info(event, **fields)
            return
        key = (event, *(fields.get(name) for name in _APART))
        if key not in self._last and len(self._last) >= _MOST_KINDS:
            key, fields = (event, "others"), fields | dict.fromkeys(name for name in _APART if name in fields)
        self._last[key] = fields
        if count := self._sampler.take(key, self._clock()):
            _log.info(event, **fields, count=count)

    def flush(self) -> None:
        """Log what was counted and not told yet."""
        for key, count in self._sampler.rest():
            assert isinstance(key, tuple)  # noqa: S101 - as `tell` makes them
            _log.info(key[0], **self._last[key], count=count)
        self._last.clear()


_repeated = Repeated()
tell, flush = _repeated.tell, _repeated.flush
