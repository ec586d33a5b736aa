import gzip
import hashlib
import io
import json
import re
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sync_job.config import ExportSettings
from sync_job.consent.channels import letters
from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import csv as csv_files
from sync_job.exports import loader, packing, sources

HEADER = "Client,AllowSms,AllowEmail,AllowPush,AllowEmailOnlineCheque\n"
TEXT = (HEADER + "".join(f"{i},{i % 2},1,0,0\n" for i in range(1, 41))).encode()


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _members(content: bytes) -> bytes:
    """Return gzip of three members, as of files that were put one behind the other; cut within records."""
    third = len(content) // 3 + 1
    return b"".join(_gzip(content[at : at + third]) for at in range(0, len(content), third))


def _zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def _zip(content: bytes, method: int = zipfile.ZIP_DEFLATED, more: Mapping[str, bytes] = {}) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("in/export.csv", content)
        for name, text in more.items():
            archive.writestr(name, text)
    return out.getvalue()


def _stored(content: bytes) -> bytes:
    return _zip(content, zipfile.ZIP_STORED)


Pack = Callable[[bytes], bytes]
PACKS = [_gzip, _members, _zstd, _zip, _stored]


def _write(folder: Path, content: bytes, name: str = "export.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _load(where: Path | str) -> loader.Export:
    return loader.load(ExportSettings(as_of="none"), ZoneInfo("UTC"), where=str(where), first_look=True)


def _says(export: loader.Export) -> dict[int, str]:
    return {int(id_): letters(int(byte)) for id_, byte in zip(*export.statements.items(), strict=True)}


def _grants(says: dict[int, str]) -> set[tuple[int, int]]:
    return {(id_, place) for id_, flags in says.items() for place, flag in enumerate(flags) if flag == "T"}


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("size_bytes", [1, 50, 1 << 20])
def test_a_packed_export_is_read_as_if_it_were_not(tmp_path: Path, pack: Pack, size_bytes: int) -> None:
    """Whatever its name says; the digest and the size are of what is stored, the compression is reported."""
    plain = _load(_write(tmp_path, TEXT, "plain.csv"))
    packed = pack(TEXT)
    with mock.patch.object(csv_files, "BLOCK_BYTES", size_bytes):
        export = _load(_write(tmp_path, packed))
    assert _says(export) == _says(plain)
    assert export.rows == 40
    (one,) = export.inputs
    assert one.sha256 == hashlib.sha256(packed).hexdigest()
    assert one.size_bytes == len(packed)
    assert one.compression == {"_gzip": "gzip", "_members": "gzip", "_zstd": "zstd"}.get(pack.__name__, "zip")
    assert plain.inputs[0].compression == ""
    assert export.counts()["inputs"][0]["compression"] == one.compression


@pytest.mark.parametrize("pack", PACKS)
def test_progress_is_of_what_is_stored(tmp_path: Path, pack: Pack) -> None:
    """It ends at the file's size, or short of it where an archive's own lists are at the end."""
    seen: list[tuple[int, int]] = []
    path = _write(tmp_path, pack(TEXT * 1))
    settings = ExportSettings(as_of="none")
    loader.load(
        settings,
        ZoneInfo("UTC"),
        where=str(path),
        first_look=True,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert {total for _, total in seen} == {path.stat().st_size}
    assert 0 < seen[-1][0] <= path.stat().st_size or pack in (_zip, _stored)


@pytest.mark.parametrize("pack", PACKS)
def test_a_packed_file_that_is_cut_short_is_refused_as_a_whole(tmp_path: Path, pack: Pack) -> None:
    """At every length, in so many words: never rows of it, and never a traceback; unless whole members are gone."""
    packed = pack(TEXT)
    whole = _says(_load(_write(tmp_path, packed)))
    taken = []
    for length in range(len(packed)):
        path = _write(tmp_path, packed[:length])
        try:
            export = _load(path)
        except ExportError as exc:
            assert str(path) in str(exc)  # noqa: PT017 - what is not refused is looked at below
        else:
            taken.append(length)
            assert _grants(_says(export)) <= _grants(whole)
    # The end of a member is an end like any: nothing in gzip says whether another one should follow.
    ends = [at.start() for at in re.finditer(re.escape(packed[:4]), packed)][1:] if pack is _members else []
    assert set(taken) <= set(ends)


@pytest.mark.parametrize("pack", PACKS)
def test_a_packed_file_that_is_damaged_is_refused_or_read_right(tmp_path: Path, pack: Pack) -> None:
    """A byte that is another: an error of the export, or what the intact file says."""
    packed = pack(TEXT)
    whole = _says(_load(_write(tmp_path, packed)))
    for place in range(len(packed)):
        path = _write(tmp_path, packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :])
        try:
            found = _says(_load(path))
        except ExportError:
            continue
        # zstd has a checksum only where its writer asked for one, and pyarrow's does not.
        assert found == whole or pack is _zstd


@pytest.mark.parametrize("pack", PACKS)
def test_json_lines_may_be_packed(tmp_path: Path, pack: Pack) -> None:
    """An object a line; found in a folder by both of its endings, and cut short nowhere taken."""
    rows = [{"Client": i} | dict.fromkeys(HEADER.strip().split(",")[1:], bool(i % 2)) for i in range(1, 41)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    packed = pack(text)
    path = _write(tmp_path, packed, "export.jsonl.gz")
    export = _load(tmp_path)
    assert (export.rows, export.inputs[0].format) == (40, "jsonl")
    assert export.inputs[0].sha256 == hashlib.sha256(packed).hexdigest()
    assert _says(export)[1] == "TTTT"
    for length in range(0, len(packed), 7):
        _write(tmp_path, packed[:length], path.name)
        if not _is_whole(packed, length):
            with pytest.raises(ExportError):
                _load(path)


def _is_whole(packed: bytes, length: int) -> bool:
    """Return whether a gzip ends there between two members."""
    return length > 0 and packed[length : length + 4] == packed[:4]


def test_gzip_with_something_behind_it_is_refused(tmp_path: Path) -> None:
    """Zeros fill up a block of a tape; anything else is no gzip."""
    assert _load(_write(tmp_path, _gzip(TEXT) + bytes(512))).rows == 40
    with pytest.raises(ExportError, match="damaged or cut short as gzip"):
        _load(_write(tmp_path, _gzip(TEXT) + b"more"))


def test_an_archive_of_several_files_is_refused_with_their_names(tmp_path: Path) -> None:
    """Nobody can tell which is the export; what a Mac adds does not count."""
    with pytest.raises(ExportError, match=r"2 files \('in/export.csv', 'b.csv'\).*Pack one file alone"):
        _load(_write(tmp_path, _zip(TEXT, more={"b.csv": TEXT})))
    many = {f"{i}.csv": b"" for i in range(30)}
    with pytest.raises(ExportError, match=r"31 files \('in/export.csv', .*'8.csv' …\)"):
        _load(_write(tmp_path, _zip(TEXT, more=many)))
    assert _load(_write(tmp_path, _zip(TEXT, more={"__MACOSX/in/._export.csv": b"x", "in/": b""}))).rows == 40
    out = io.BytesIO()
    zipfile.ZipFile(out, "w").close()
    with pytest.raises(ExportError, match="zip"):
        _load(_write(tmp_path, b"PK\x03\x04" + out.getvalue()))


def test_an_archive_that_cannot_be_unpacked_is_told(tmp_path: Path) -> None:
    """One with a password, and one of a method that is not unpacked in bounds."""
    packed = bytearray(_zip(TEXT))
    for place in (packed.index(b"PK\x03\x04") + 6, packed.index(b"PK\x01\x02") + 8):
        packed[place] |= 1
    with pytest.raises(ExportError, match="with a password"):
        _load(_write(tmp_path, bytes(packed)))
    with pytest.raises(ExportError, match="unusual method"):
        _load(_write(tmp_path, _zip(TEXT, zipfile.ZIP_LZMA)))


@pytest.mark.parametrize("pack", [_gzip, _zstd, _zip])
def test_what_is_packed_twice_is_refused(tmp_path: Path, pack: Pack) -> None:
    """Parquet, which packs its own columns, and packed files."""
    pq.write_table(pa.table({"Client": [1]}), tmp_path / "plain")
    with pytest.raises(ExportError, match=r"Parquet inside (gzip|zstd|zip)"):
        _load(_write(tmp_path, pack((tmp_path / "plain").read_bytes())))
    with pytest.raises(ExportError, match=r"gzip inside (gzip|zstd|zip)"):
        _load(_write(tmp_path, pack(_gzip(TEXT))))


@pytest.mark.parametrize("pack", PACKS)
def test_nothing_packed_is_an_empty_file(tmp_path: Path, pack: Pack) -> None:
    """Which may still be written."""
    if pack is _members:
        return
    with pytest.raises(ExportIncompleteError, match="the file is empty"):
        _load(_write(tmp_path, pack(b"")))


def test_a_format_that_is_set_is_of_what_is_packed(tmp_path: Path) -> None:
    """Packed CSV is CSV."""
    path = str(_write(tmp_path, _gzip(TEXT)))
    assert sources.find(path, "csv")[0].format == "csv"
    with pytest.raises(ExportError, match="not a Parquet file"):
        sources.find(path, "parquet")


@pytest.mark.parametrize("pack", [_gzip, _zstd, _zip])
def test_what_unpacks_to_much_takes_little_memory(tmp_path: Path, pack: Pack) -> None:
    """64 MiB of blank lines from some kilobytes: as much at once as was asked for, and not more."""
    size = 64 << 20
    path = _write(tmp_path, pack(bytes([10]) * size))
    assert path.stat().st_size < size // 500
    source = sources.Source(sources.LocalFile(path), "csv", 1, packing.compression(path.read_bytes()))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with source.place.open() as file, packing.unpacked(packing.Stored(file), source.compression, "x") as content:
        length = 0
        while piece := content.read(1 << 16):
            length += len(piece)
            assert pa.total_allocated_bytes() - before < 4 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == size
    assert peak < 4 << 20


def test_random_bytes_behind_a_known_begin_are_refused(tmp_path: Path) -> None:
    """Whatever they are, an error of the export and nothing else."""
    random = np.random.default_rng(1)
    for start in (b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"):
        for _ in range(200):
            content = start + random.bytes(int(random.integers(0, 200)))
            with pytest.raises(ExportError):
                _load(_write(tmp_path, content))


def test_the_systems_word_is_not_taken_for_damage(tmp_path: Path) -> None:
    """An error of the disk is told as such."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with (
        pytest.raises(OSError, match="Input/output error"),
        packing.unpacked(packing.Stored(Broken()), "gzip", "x") as content,
    ):
        content.read(1)


def test_zlib_without_gzip_is_no_text(tmp_path: Path) -> None:
    """What is not known to be packed is told by its bytes."""
    with pytest.raises(ExportError):
        _load(_write(tmp_path, zlib.compress(TEXT)))
