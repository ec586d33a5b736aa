"""What a file holds as a stream of UTF-8 text, wherever it lies and however it is packed and encoded."""

import codecs
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sync_job.exports import encoding, packing, sources

_HEAD_BYTES = 4096  # by which an encoding without a byte order mark is told
_ASCII = bytes(range(128))


class Text:
    """A file's content as UTF-8, without a byte order mark.

    What is UTF-8 already goes through as it is, damaged bytes and all; of other encodings what cannot be read is
    U+FFFD. *asked* names the encoding, unless a mark says another; "auto" is found out: UTF-8 as long as it may be.
    """

    def __init__(self, packed: packing.Reader, stored: packing.Stored, asked: str = "auto") -> None:
        self._packed = packed
        self._stored = stored
        self.encoding = asked  # "auto" as long as there were ASCII characters alone, which are the same in most
        self._ahead: bytes | None = None  # read and not given yet
        self._decoder: codecs.IncrementalDecoder | None = None
        self._keeps_ascii = False

    @property
    def position(self) -> int:
        """How many bytes of the file were given so far; of a packed one, about."""
        return max(0, self._stored.position - len(self._ahead or b""))

    def read(self, size: int) -> bytes:
        """Return about *size* bytes more; none at the end."""
        if self._ahead is None:
            self._begin()
        while True:
            found = self._next(size)
            text = self._as_utf8(found)
            if text or not found:
                return text

    def _begin(self) -> None:
        head = b""
        while len(head) < _HEAD_BYTES and (more := self._packed.read(_HEAD_BYTES - len(head))):
            head += more
        name, length = encoding.of_mark(head)
        self._ahead = head[length:]
        self._set(name or (encoding.of_nuls(head) if self.encoding == "auto" else "") or self.encoding)

    def _set(self, name: str) -> None:
        self.encoding = name
        if name not in ("auto", encoding.UTF_8):
            self._decoder = codecs.getincrementaldecoder(name)("replace")
            self._keeps_ascii = _ASCII.decode(name, "replace").encode("utf-8", "replace") == _ASCII

    def _next(self, size: int) -> bytes:
        ahead, self._ahead = self._ahead or b"", b""
        if len(ahead) > size:
            self._ahead = ahead[size:]
            return ahead[:size]
        return ahead + self._packed.read(size - len(ahead)) if len(ahead) < size else ahead

    def _as_utf8(self, found: bytes) -> bytes:
        if self.encoding == "auto":
            return self._found_out(found)
        if self._decoder is None:
            return found
        if self._keeps_ascii and found.isascii() and not self._decoder.getstate()[0]:
            return found
        return self._decoder.decode(found, not found).encode("utf-8", "replace")

    def _found_out(self, found: bytes) -> bytes:
        """Return *found* in UTF-8, and settle what the encoding is once there is more than ASCII."""
        if found.isascii():
            return found
        whole = found
        try:
            # A letter may be cut in two at the end of what was read.
            while (used := codecs.utf_8_decode(whole, "strict", False)[1]) < len(whole):
                more = self._next(len(whole) - used)
                if not more:
                    codecs.utf_8_decode(whole, "strict", True)
                whole += more
        except UnicodeDecodeError as exc:
            self._set(encoding.of_letters(whole, exc.start))
            return self._as_utf8(whole)
        self._set(encoding.UTF_8)
        return whole


@contextmanager
def opened(source: sources.Source, digest: "hashlib._Hash | None" = None, asked: str = "auto") -> Iterator[Text]:
    """Open a source as text, in the encoding *asked* for; every byte that is stored goes through *digest*.

    Raises:
        ExportError: when it cannot be read.
    """
    with sources.reading(source.name), source.place.open() as file:
        stored = packing.Stored(file, digest)
        with packing.unpacked(stored, source.compression, source.name) as content:
            yield Text(content, stored, asked)
