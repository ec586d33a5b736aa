import io

import pytest

from sync_job.exports import packing, streams


def _text(content: bytes, asked: str = "auto") -> streams.Text:
    stored = packing.Stored(io.BytesIO(content))
    return streams.Text(stored, stored, asked)


def _all(text: streams.Text, size: int) -> bytes:
    found = b""
    while piece := text.read(size):
        found += piece
    assert text.read(size) == b""
    return found


CONTENT = "Client,Имя\n1,Щукин €\n" * 400  # longer than what an encoding is told by


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096, 1 << 20])
@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1251"])
def test_a_stream_gives_utf8_whatever_is_read_at_once(size: int, code: str) -> None:
    """Letters and marks are cut anywhere, and come whole; the position ends at the size."""
    content = CONTENT.encode(code)
    text = _text(content)
    assert _all(text, size).decode() == CONTENT
    assert text.position == len(content)


@pytest.mark.parametrize("asked", ["auto", "utf-8"])
@pytest.mark.parametrize("size", [5, 1 << 20])
def test_utf8_goes_through_as_it_is(asked: str, size: int) -> None:
    """Damaged bytes and all: nothing is decoded that need not be."""
    content = CONTENT.encode() + b"\xff\xe2\x82" + CONTENT.encode()
    text = _text(content, asked)
    assert _all(text, size) == content
    assert text.encoding == "utf-8"


def test_ascii_alone_leaves_the_encoding_open() -> None:
    """It is the same in most of them; what follows may tell."""
    text = _text(b"a,b\n" * 5000)
    assert _all(text, 100) == b"a,b\n" * 5000
    assert text.encoding == "auto"


@pytest.mark.parametrize("code", ["utf-16-le", "utf-32-be", "shift_jis", "cp1251", "ascii"])
def test_what_cannot_be_read_is_a_replacement_and_no_error(code: str) -> None:
    """Bytes of any kind, and a last letter that is cut short."""
    found = _all(_text(bytes(range(256)) * 30 + b"\xd8\x81\x98", code), 11).decode()
    assert "\ufffd" in found
