"""What a file holds as a stream of UTF-8 text, wherever it lies and however it is packed and encoded."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from sync_job.exports import sources

_BOM = b"\xef\xbb\xbf"


class Text:
    """A file's content as UTF-8, without a byte order mark; every byte that is stored goes through *digest*."""

    def __init__(self, stored: BinaryIO, digest: "hashlib._Hash") -> None:
        self._stored = stored
        self._digest = digest
        self._began = False
        self.position = 0  # bytes of the file that were read so far

    def read(self, size: int) -> bytes:
        """Return about *size* bytes more; none at the end."""
        found = self._stored.read(size)
        self._digest.update(found)
        self.position += len(found)
        if not self._began:
            self._began = True
            if found.startswith(_BOM):
                return found[len(_BOM) :] or self.read(size)
        return found


@contextmanager
def opened(source: sources.Source, digest: "hashlib._Hash | None" = None) -> Iterator[Text]:
    """Open a source as text.

    Raises:
        ExportError: when it cannot be read.
    """
    with sources.reading(source.name), source.place.open() as stored:
        yield Text(stored, digest or hashlib.sha256())
