"""What can be read only once, such as standard input, kept in a private file so that it can be read like any other."""

import functools
import io
import os
import sys
import tempfile
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, BinaryIO

from sync_job.errors import ExportError
from sync_job.exports.packing import Reader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

_PIECE_BYTES = 1 << 20


class Spooled:
    """A place that holds what a stream had to say, for as long as this object lives.

    An export is looked at several times: its first bytes, its header, its rows, and for Parquet its end before its
    begin. The file has no name: nobody else can open it, and it is gone with the process, however that ends.
    """

    below = ""

    def __init__(self, name: str, stream: Reader, changed: float | None = None) -> None:
        self.name = name
        self._changed = changed
        try:
            with tempfile.TemporaryFile() as file:  # with mode 0600, while it had a name
                while piece := stream.read(_PIECE_BYTES):
                    file.write(piece)
                file.flush()
                self._file = os.dup(file.fileno())
        except OSError as exc:
            raise ExportError(
                f"{name}: could not be kept in {tempfile.gettempdir()} while it is read: {exc.strerror or exc}. "
                "Set TMPDIR to a folder with room for it."
            ) from exc
        weakref.finalize(self, os.close, self._file)

    def open(self) -> BinaryIO:
        """Return its content, from the begin; several may be open at once."""
        return io.BufferedReader(_View(self))

    def read(self, size: int, at: int) -> bytes:
        """Return about *size* bytes from byte *at* on; none at the end."""
        return os.pread(self._file, size, at)

    def changed(self) -> float:
        """Return when its content was changed last, in epoch seconds, where the stream had such a time.

        Raises:
            ExportError: where it had none, as standard input.
        """
        if self._changed is None:
            raise ExportError(f'{self.name}: a stream has no time. Set [export] as_of to something else than "mtime".')
        return self._changed

    def identity(self) -> Hashable:
        """Return what is always the same: nobody else can change it."""
        return self.name

    def size_bytes(self) -> int:
        """Return how large it is."""
        return os.fstat(self._file).st_size

    def beside(self, name: str, up: int = 0) -> None:
        """Return none: nothing lies beside a stream."""


class _View(io.RawIOBase):
    """What a stream had to say, from its begin, whatever others read of it meanwhile."""

    def __init__(self, spooled: Spooled) -> None:
        self._spooled = spooled
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer)
        found = self._spooled.read(len(view), self._at)
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._spooled.size_bytes()}[whence]
        return self._at

    def tell(self) -> int:
        return self._at


@functools.cache  # a command may read its export twice, as to plan and then to send; the stream is there once
def standard_input() -> Spooled:
    """Return what comes in on standard input.

    Raises:
        ExportError: when that is a terminal, or there is no room for it.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise ExportError("-: standard input is a terminal. Pipe the export into it, or name a file.")
    return Spooled("standard input", sys.stdin.buffer)
