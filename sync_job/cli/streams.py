"""Standard streams that end no command: what cannot be written is lost, and the command ends as it would have."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_STDERR = 2


class Forgiving:
    """Writes to a stream until it fails, and to nowhere from then on; for anything else it is that stream."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._why: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._to, name)

    def write(self, text: str) -> int:
        """Write *text*, if the stream takes it."""
        try:
            return self._to.write(text)
        except OSError as exc:
            self._give_up(exc)
            return len(text)

    def flush(self) -> None:
        """Pass on what was written, if the stream takes it."""
        try:
            self._to.flush()
        except OSError as exc:
            self._give_up(exc)

    def lost(self) -> str:
        """Return why output was lost, "" if none was; a reader who has seen enough, as `head` has, lost none."""
        self.flush()
        return "" if self._why is None or isinstance(self._why, BrokenPipeError) else self._why.strerror or "unknown"

    def _give_up(self, why: OSError) -> None:
        self._why = self._why or why
        # What is in the stream's buffer still would be tried again at the end of the process, and be its exit code.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._to.fileno())


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """Give the block standard streams that end no command, and all three of them if the process was given fewer."""
    # Or the next file that is opened, such as the ledger, would have the number of a standard stream.
    while (handle := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(handle)
    before = sys.stdin, sys.stdout, sys.stderr
    with Path(os.devnull).open("r+", encoding="utf-8") as nowhere:
        sys.stdin = sys.stdin or nowhere
        sys.stdout = Forgiving(sys.stdout or nowhere)
        sys.stderr = Forgiving(sys.stderr or nowhere)
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = before


def output_lost() -> str:
    """Return why standard output could not be written, "" if it was."""
    return sys.stdout.lost() if isinstance(sys.stdout, Forgiving) else ""
