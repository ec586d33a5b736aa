import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.config import ExportSettings
from sync_job.errors import ExportError
from sync_job.exports import loader, sources, spool

TEXT = b"Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n1,1,1,0,0\n2,0,0,1,1\n"


@pytest.fixture(autouse=True)
def _once() -> Iterator[None]:
    """Forget what came in, before and after each test."""
    spool.standard_input.cache_clear()
    yield
    spool.standard_input.cache_clear()


def _give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def _load(as_of: str = "none") -> loader.Export:
    return loader.load(ExportSettings(as_of=as_of), ZoneInfo("UTC"), where="-", first_look=True)


def _parquet() -> bytes:
    out = io.BytesIO()
    flags = {name: [True, False] for name in TEXT.split(b"\n")[0].decode().split(",")[1:]}
    pq.write_table(pa.table({"Client": [1, 2]} | flags), out)
    return out.getvalue()


@pytest.mark.parametrize("content", [TEXT, gzip.compress(TEXT), _parquet()], ids=["csv", "gzip", "parquet"])
def test_standard_input_is_an_export(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """In any format; read twice it says the same, as a command needs that plans and then sends."""
    _give(monkeypatch, content)
    for _ in range(2):
        export = _load()
        assert (export.rows, export.clients) == (2, 2)
        (one,) = export.inputs
        assert (one.path, one.size_bytes) == ("standard input", len(content))
        assert one.sha256 == hashlib.sha256(content).hexdigest()


def test_nothing_on_standard_input_is_an_empty_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an empty file is."""
    _give(monkeypatch, b"")
    with pytest.raises(ExportError, match="standard input: the file is empty"):
        _load()


def test_a_stream_has_no_time_and_nothing_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An age by its time, or its name, is an error that says what to do."""
    _give(monkeypatch, TEXT)
    place: sources.Place = spool.standard_input()
    assert place.beside("x") is None
    with pytest.raises(ExportError, match="a stream has no time"):
        _load("mtime")
    with pytest.raises(ExportError, match="standard input: no time like"):
        _load("filename:%Y-%m-%d")


def test_a_terminal_is_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what a person types; nor is there anything where standard input is closed."""
    ours, theirs = os.openpty()
    with open(theirs, closefd=True) as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(ExportError, match="a terminal"):
            _load()
    os.close(ours)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ExportError, match="-: standard input"):
        _load()


def test_what_is_kept_is_private_and_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can open it, and nothing is left of it however the process ends."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = spool.Spooled("x", io.BytesIO(TEXT))
    with place.open() as file:
        assert file.read() == TEXT
    assert list(tmp_path.iterdir()) == []
    assert stat.S_IMODE(os.fstat(place._file).st_mode) == 0o600


def test_a_stream_is_kept_in_bounded_memory() -> None:
    """A piece at a time."""

    class Endless(io.RawIOBase):
        left = 64

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return bytes(size) if self.left >= 0 else b""

    tracemalloc.start()
    place = spool.Spooled("x", Endless())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert place.size_bytes() == 64 << 20
    assert peak < 4 << 20


def test_readers_do_not_disturb_each_other() -> None:
    """Several at once, each where it is."""
    place = spool.Spooled("x", io.BytesIO(TEXT))

    def read(file: BinaryIO) -> bytes:
        return file.read(3)

    with place.open() as one, place.open() as other:
        assert [read(one), read(other), read(one)] == [b"Cli", b"Cli", b"ent"]
        assert other.seek(-4, io.SEEK_END) == len(TEXT) - 4
        assert other.read() == TEXT[-4:]


def test_no_room_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the folder, and how to take another one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ExportError, match=r"could not be kept in .*none.*Set TMPDIR"):
        spool.Spooled("x", io.BytesIO(TEXT))


def test_a_list_may_come_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found like an export."""
    _give(monkeypatch, TEXT)
    (source,) = sources.find("-", "auto")
    assert (source.format, source.size_bytes) == ("csv", len(TEXT))


def test_the_command_takes_a_pipe(tmp_path: Path) -> None:
    """`check -`, with the export piped into it."""
    config = tmp_path / "nightly.toml"
    config.write_text('[export]\nas_of = "none"\n[endpoint]\nbase_url = "http://127.0.0.1:9"\n')
    ended = subprocess.run(
        [sys.executable, "-m", "sync_job", "check", "-", "--config", config],
        input=gzip.compress(TEXT),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"standard input: csv in gzip" in ended.stdout
