"""Standard streams that end no run: a log that is full, or that nobody reads any more, costs its lines and no more."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class Forgiving:
    """Writes to a stream as long as that takes it, and to nowhere from then on; whatever else is asked, it is that."""

    def __init__(self, to: TextIO) -> None:
        self._to = to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._to, name)

    def write(self, text: str) -> int:
        """Write *text*, if somebody takes it."""
        try:
            return self._to.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Pass on what was written, if somebody takes it."""
        try:
            self._to.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # What is in the stream's buffer still would be tried again at the end of the process, and be its exit code.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._to.fileno())


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """Give the block a standard error that ends no run, and streams at all where the process was given none."""
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stdout or nowhere
        sys.stderr = Forgiving(sys.stderr or nowhere)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
