"""Files of other machines, read piece by piece: what breaks off is carried on with from where it was.

`s3.py` and `web.py` know how to ask for a piece; what is done with it is here.
"""

import io
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, TypeVar

import tenacity

from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import naming

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

T = TypeVar("T")
ATTEMPTS = 5  # in a row without one more byte
WAIT_S = 0.5  # before the second of them; each further one waits up to twice as long
_LEAST_BYTES = 64 << 10  # asked for at once
_MOST_BYTES = 4 << 20


class BrokenError(Exception):
    """A store did not answer, or broke off: it may do better the next time."""


class About(NamedTuple):
    """A file's size, when it was changed last (epoch seconds), and what its store calls this content of it."""

    size_bytes: int
    changed: float | None
    version: str


class Store(Protocol):
    """Where files lie on other machines; nothing that it says has a secret in it.

    Everything raises `BrokenError` for what may do better the next time, and `ExportError` for what will not.
    """

    def about(self, address: str) -> About:
        """Return what the store says of a file."""
        ...

    def read(self, address: str, about: About, start: int, stop: int) -> bytes:
        """Return the bytes from *start* on up to *stop*, at least one, as long as the file is as *about* says."""
        ...

    def beside(self, address: str, name: str, up: int) -> str | None:
        """Return the address of the file of that name so many folders above a file's own; none where there is none."""
        ...


@dataclass(frozen=True)
class RemoteFile:
    """A file of another machine."""

    store: Store
    address: str
    below: str = ""
    sleep: Callable[[float], None] = time.sleep

    @property
    def name(self) -> str:
        """What it is called in messages and reports: its address without secrets."""
        return naming.shown(self.address)

    def open(self) -> BinaryIO:
        """Return its content as it is now, from the begin; it can be read anywhere, and only what is read is asked for.

        Raises:
            ExportError: here and while it is read, when the store says no, the connection breaks too often, or the
                file is another one meanwhile.
        """
        return io.BufferedReader(_Pieces(self, self.about()))

    def about(self) -> About:
        """Return what the store says of it now."""
        return self._insist(lambda: self.store.about(self.address), "")

    def read(self, about: About, start: int, stop: int) -> bytes:
        """Return its bytes from *start* on, at least one and up to *stop*."""
        return self._insist(lambda: self.store.read(self.address, about, start, stop), f" at byte {start:,}")

    def changed(self) -> float:
        """Return when it was changed last, in epoch seconds."""
        found = self.about().changed
        if found is None:
            raise ExportError(
                f"{self.name}: its server does not say when it was changed (Last-Modified). "
                'Set [export] as_of to something else than "mtime".'
            )
        return found

    def identity(self) -> Hashable:
        """Return what is the same as long as its content is."""
        return self.about()

    def size_bytes(self) -> int:
        """Return how large it is."""
        return self.about().size_bytes

    def beside(self, name: str, up: int = 0) -> "RemoteFile | None":
        """Return the file of that name in the same folder, or so many folders *up*; none where there is none."""
        found = self._insist(lambda: self.store.beside(self.address, name, up), "")
        return None if found is None else RemoteFile(self.store, found, sleep=self.sleep)

    def _insist(self, ask: Callable[[], T], where: str) -> T:
        """Return what *ask* returns, asked again where that may help.

        Raises:
            ExportError: when it did not help.
        """
        return insist(ask, self.name, where, self.sleep)


def insist(ask: Callable[[], T], name: str, where: str = "", sleep: Callable[[float], None] = time.sleep) -> T:
    """Return what *ask* returns, asked a few times where it is broken off; *name* and *where* stand in the error.

    Raises:
        ExportIncompleteError: when it broke off each time. ExportError: what *ask* raises for good.
    """
    try:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(WAIT_S, max=10),
            retry=tenacity.retry_if_exception_type(BrokenError),
            sleep=sleep,
            reraise=True,
        )(ask)
    except BrokenError as exc:
        raise ExportIncompleteError(
            f"{name}: {exc}{where}, {ATTEMPTS} times in a row. Check the network and the store, and run again."
        ) from exc


class _Pieces(io.RawIOBase):
    """A file's content, asked for in pieces: twice as much each time while it is read on, little after a jump.

    So a file that is read from one end to the other takes few requests, and one of which some columns are read never
    transfers much more than twice those.
    """

    def __init__(self, file: RemoteFile, about: About) -> None:
        self._file, self._about = file, about
        self._at = 0
        self._begin, self._piece = 0, b""  # what was fetched last
        self._ahead_bytes = _LEAST_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer)
        if self._at >= self._about.size_bytes or not len(view):
            return 0
        if not self._begin <= self._at < self._begin + len(self._piece):
            self._fetch(len(view))
        found = self._piece[self._at - self._begin :][: len(view)]
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _fetch(self, size_bytes: int) -> None:
        reads_on = self._at == self._begin + len(self._piece)
        self._ahead_bytes = min(2 * self._ahead_bytes, _MOST_BYTES) if reads_on else _LEAST_BYTES
        stop = min(self._at + max(self._ahead_bytes, min(size_bytes, _MOST_BYTES)), self._about.size_bytes)
        self._begin, self._piece = self._at, self._file.read(self._about, self._at, stop)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._about.size_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at
