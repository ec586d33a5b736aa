import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sync_job.errors import ExportError
from sync_job.exports import sources

TEXT = b"Client,AllowSms\n1,1\n"


def _names(found: list[sources.Source]) -> list[str]:
    return [Path(source.name).name for source in found]


def test_a_folder_stands_for_its_exports_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Files with an ending of exports, in any case, and neither others nor what lies in folders below."""
    for name in ("b.csv", "a.CSV", "c.parquet.tmp", "d.txt", "e.gz", "notes.md"):
        (tmp_path / name).write_bytes(TEXT)
    (tmp_path / "f.csv").mkdir()
    (tmp_path / "f.csv" / "g.csv").write_bytes(TEXT)
    assert _names(sources.find(str(tmp_path), "auto")) == ["a.CSV", "b.csv", "d.txt"]


def test_a_glob_stands_for_the_files_it_matches(tmp_path: Path) -> None:
    """Files alone, in the order of their names, whatever their endings; `**` goes into folders."""
    (tmp_path / "in").mkdir()
    for name in ("2.csv", "1.csv", "1.dat", "in/3.csv"):
        (tmp_path / name).write_bytes(TEXT)
    assert _names(sources.find(f"{tmp_path}/?.csv", "auto")) == ["1.csv", "2.csv"]
    assert _names(sources.find(f"{tmp_path}/1.*", "auto")) == ["1.csv", "1.dat"]
    assert _names(sources.find(f"{tmp_path}/**/*.csv", "auto")) == ["1.csv", "2.csv", "3.csv"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    """A path that exists is never taken for a pattern."""
    (tmp_path / "[1].csv").write_bytes(TEXT)
    (tmp_path / "1.csv").write_bytes(TEXT)
    assert _names(sources.find(f"{tmp_path}/[1].csv", "auto")) == ["[1].csv"]


def test_a_folder_has_packed_files_too(tmp_path: Path) -> None:
    """By the ending before that of the compression; beside plain ones, whose rows count once like theirs."""
    for name in ("a.csv", "b.csv.gz", "C.TXT.ZST", "d.csv.zip", "e.gz", "f.md.gz", "g.csv.gz.tmp"):
        (tmp_path / name).write_bytes(TEXT)
    assert _names(sources.find(str(tmp_path), "auto")) == ["C.TXT.ZST", "a.csv", "b.csv.gz", "d.csv.zip"]


@pytest.mark.parametrize("pattern", ["", "/*", "/[aA].csv*"])
@pytest.mark.parametrize("other", ["a.csv.gz", "a.csv.zip", "A.csv.zst"])
def test_a_file_that_is_there_twice_is_refused(tmp_path: Path, pattern: str, other: str) -> None:
    """Packed and not packed: one of them is old, and nobody can tell which."""
    (tmp_path / "a.csv").write_bytes(TEXT)
    (tmp_path / other).write_bytes(TEXT)
    with pytest.raises(ExportError, match="the same file twice, packed and not packed"):
        sources.find(f"{tmp_path}{pattern}", "auto")


def test_what_is_hidden_is_no_export(tmp_path: Path) -> None:
    """Markers and what is being written, in a folder and for a glob, unless that names them."""
    for name in ("part-0.csv", "_SUCCESS", ".part-0.csv.crc", "_part-1.csv", ".part-2.csv"):
        (tmp_path / name).write_bytes(TEXT)
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "_temporary" / "part-1.csv").write_bytes(TEXT)
    assert _names(sources.find(str(tmp_path), "auto")) == ["part-0.csv"]
    assert _names(sources.find(f"{tmp_path}/*", "auto")) == ["part-0.csv"]
    assert _names(sources.find(f"{tmp_path}/**/*.csv", "auto")) == ["part-0.csv"]
    assert _names(sources.find(f"{tmp_path}/_p*.csv", "auto")) == ["_part-1.csv"]


def test_partitions_are_found_and_told(tmp_path: Path) -> None:
    """Files in `key=value` folders, whatever their depth; what the folders say goes with them, unescaped."""
    for place in ("dt=2026-11-24/part-0.csv", "dt=2026-11-24/at=10%3A00/a.csv", "other/b.csv", "_x=1/c.csv", "d.csv"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(TEXT)
    expected = {
        "d.csv": {},
        "a.csv": {"dt": "2026-11-24", "at": "10:00"},
        "part-0.csv": {"dt": "2026-11-24"},
    }
    assert {Path(one.name).name: one.partition for one in sources.find(str(tmp_path), "auto")} == expected
    found = sources.find(f"{tmp_path}/dt=*/*.csv", "auto")
    assert [(Path(one.name).name, one.partition) for one in found] == [("part-0.csv", {"dt": "2026-11-24"})]
    # Whoever names the folder of a partition has said what it is.
    assert sources.find(f"{tmp_path}/dt=2026-11-24/part-0.csv", "auto")[0].partition == {}


@pytest.mark.parametrize("where", ["none.csv", "none-*.csv", ".", "x" * 5000, "none/none.csv"])
def test_nothing_to_read_is_an_error_that_names_the_place(tmp_path: Path, where: str) -> None:
    """A missing file, a glob without a match, an empty folder, an impossible name: each is told with its path."""
    place = f"{tmp_path}/{where}"
    with pytest.raises(ExportError, match=re.escape(place.removesuffix("/."))):
        sources.find(place, "auto")


def test_an_empty_path_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path nothing is read, though files lie where the command was started."""
    (tmp_path / "a.csv").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=r"\[export\] path"):
        sources.find("", "auto")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "empty"),
        (b"\x1f\x8b\x08\0", "cut short as gzip"),
        (b"PK\x03\x04\x14\0", "zip archive or an Excel workbook"),
        (b"\x28\xb5\x2f\xfd\0", "cut short as zstd"),
        (b"\0" * 100, "neither text nor Parquet"),
    ],
)
def test_what_is_no_export_is_told_by_its_first_bytes(tmp_path: Path, content: bytes, hint: str) -> None:
    """The message names the file and what it is, so that the person knows what to do with it."""
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=f"{re.escape(str(path))}: .*{hint}"):
        sources.find(str(path), "auto")


def test_the_format_is_seen_in_the_content_not_in_the_name(tmp_path: Path) -> None:
    """`auto` goes by the first bytes."""
    (tmp_path / "a.parquet").write_bytes(TEXT)
    (tmp_path / "b.csv").write_bytes(b"PAR1....")
    found = sources.find(str(tmp_path), "auto")
    assert [source.format for source in found] == ["csv", "parquet"]
    assert [source.size_bytes for source in found] == [len(TEXT), 8]


def test_a_format_that_is_set_is_held_to(tmp_path: Path) -> None:
    """A file in the other format is refused, with the setting to change."""
    (tmp_path / "a").write_bytes(TEXT)
    (tmp_path / "b").write_bytes(b"PAR1....")
    assert sources.find(f"{tmp_path}/a", "csv")[0].format == "csv"
    assert sources.find(f"{tmp_path}/b", "parquet")[0].format == "parquet"
    with pytest.raises(ExportError, match=r'not a Parquet file.*format = "csv"'):
        sources.find(f"{tmp_path}/a", "parquet")
    with pytest.raises(ExportError, match=r'a Parquet file, not CSV.*format = "parquet"'):
        sources.find(f"{tmp_path}/b", "csv")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (FileNotFoundError(2, "x"), "no such file"),
        (IsADirectoryError(21, "x"), "a folder"),
        (PermissionError(13, "x"), "may not read it"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_what_the_system_says_becomes_an_export_error(found: OSError, words: str) -> None:
    """The path, what happened, and the exit code of exports."""
    with pytest.raises(ExportError, match=f"^a.csv: .*{words}"), sources.reading(Path("a.csv")):
        raise found


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"2,1\n")


def _cut_short(path: Path) -> None:
    os.truncate(path, 5)


def _overwrite(path: Path) -> None:
    path.write_bytes(TEXT.swapcase())
    os.utime(path, ns=(0, 1))


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(TEXT)
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [_append, _cut_short, _overwrite, _replace, Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Longer, shorter, rewritten at the same length, replaced by its twin, gone: each ends the reading."""
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT)
    source = sources.find(str(path), "auto")[0]
    with sources.unchanged(source):
        pass
    with pytest.raises(ExportError, match=re.escape(str(path))), sources.unchanged(source):
        change(path)


def test_a_file_that_grew_between_finding_and_reading_is_refused(tmp_path: Path) -> None:
    """Its size is held to what it was when it was found."""
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT)
    source = sources.find(str(path), "auto")[0]
    _append(path)
    with pytest.raises(ExportError, match="changed while it was read"), sources.unchanged(source):
        pass


def test_the_digest_is_of_all_bytes(tmp_path: Path) -> None:
    """SHA-256, as `sha256sum` prints it."""
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT * 100_000)
    assert sources.digest(sources.LocalFile(path)) == hashlib.sha256(TEXT * 100_000).hexdigest()
