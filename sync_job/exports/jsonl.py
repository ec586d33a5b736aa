"""JSON lines: an object a line, its keys the columns. Numbers are taken as they are written, digit by digit."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from sync_job.errors import ExportError
from sync_job.exports import headers, rows, sources, streams
from sync_job.exports.rows import Batch, Rows, Stray

BLOCK_BYTES = 4 << 20
_LONGEST_LINE_BYTES = 64 << 20
_NO_OBJECT = "not a JSON object"
_TWICE = "a key is there twice"


def read(source: sources.Source, columns: Sequence[str], clients: Sequence[str]) -> Rows:
    """Return the rows of a file, whose names are the keys of its objects, in the order in which they come.

    Keys that are those of *columns* but for case, blanks, `_` and `-` become these, in each line by itself: an exact
    one goes before. *clients* are what the client's column may be called. The file is looked through until all of
    *columns* were there, and at least one block far.

    Raises:
        ExportError: when it cannot be read, no line of it is an object, or nobody can tell which key is meant.
    """
    wanted = [name for name in columns if name]
    keys: dict[str, None] = {}
    renamed: dict[str, str] = {}
    for text, line, _ in _texts(source):
        for _, found in _objects(text, line):
            if isinstance(found, dict):
                keys.update(dict.fromkeys(found))
        renamed = headers.matched(source.name, list(keys), wanted)
        if all(name in keys or name in renamed.values() for name in wanted):
            break
    if not keys:
        raise ExportError(f"{source.name}: no line of the file is a JSON object. Export one object a line.")
    named = {renamed.get(key, key): key for key in keys if renamed.get(key) not in keys}
    client = next((named[name] for name in clients if name in named), "")
    return Rows(list(named), partial(_batches, source, named, wanted, client), renamed=renamed)


def _batches(source: sources.Source, named: dict[str, str], wanted: list[str], client: str) -> Iterator[Batch]:
    """Yield the rows; *named* says of each column how it is written where it is first met."""
    meant = {headers.plain(name) for name in wanted}
    usual = {key for name, key in named.items() if name in wanted or headers.plain(key) not in meant}
    said = re.compile(rf'"{re.escape(json.dumps(client, ensure_ascii=False)[1:-1])}"\s*:\s*"?\s*([0-9]+)')
    for text, line, size_bytes in _texts(source):
        lines: list[int] = []
        objects: list[dict[str, Any]] = []
        strays: list[Stray] = []
        for number, found in _objects(text, line):
            if isinstance(found, dict) and found.keys() - usual:
                found = _as_usual(found, named, wanted)
            if isinstance(found, dict):
                lines.append(number)
                objects.append(found)
            else:
                raw = text[number - line - 1].decode("utf-8", "replace").strip()
                id_ = said.search(raw)
                strays.append(Stray(number, raw, found, id_[1] if id_ else ""))
        columns = [[_text(one.get(key)) for one in objects] for key in named.values()]
        raws = partial(_raws, text, line, lines)
        yield Batch(rows.table(list(named), columns), lines, line + len(text), size_bytes, strays, raws)


def _as_usual(found: dict[str, Any], named: dict[str, str], wanted: list[str]) -> dict[str, Any] | str:
    """Return an object with its keys written as where they are first met, or why nobody can tell which is which.

    A key that is *wanted* as it stands goes before all that are only like it.
    """
    like: dict[str, list[str]] = {}
    for key in found:
        if key not in wanted:
            like.setdefault(headers.plain(key), []).append(key)
    as_usual = dict(found)
    taken: set[str] = set()
    for name in wanted:
        meant = [name] if name in found else like.get(headers.plain(name), [])
        if name in named and meant:
            if len(meant) > 1 or meant[0] in taken:
                return _TWICE
            taken.add(meant[0])
            as_usual[named[name]] = found[meant[0]]
    return as_usual


def _raws(text: list[bytes], line: int, lines: list[int], wanted: Sequence[int]) -> list[str]:
    return [text[lines[row] - line - 1].decode("utf-8", "replace").strip() for row in wanted]


def _objects(text: list[bytes], line: int) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each line that is not blank, by its number: its object, or why it is none. *text* begins after *line*."""
    for number, one in enumerate(text, line + 1):
        if not one.isspace() and one:
            try:
                found = _DECODER.decode(one.decode("utf-8", "replace").strip())
            except _TwiceError:
                yield number, _TWICE
            except (ValueError, RecursionError):
                yield number, _NO_OBJECT
            else:
                yield number, found if isinstance(found, dict) else _NO_OBJECT


class _TwiceError(ValueError):
    """An object says something twice, and nobody can tell which counts."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


# NaN is how pandas writes a blank; it is no JSON, and neither is Infinity, which stays an unknown token.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=lambda name: {"NaN": None}.get(name, name)
)


def _text(value: Any) -> str | None:
    """Return a value as text; a list or an object as JSON, which is no id, flag or time."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def _texts(source: sources.Source) -> Iterator[tuple[list[bytes], int, int]]:
    """Yield whole lines, with how many come before them and how far they bring us in the file.

    Raises:
        ExportError: when the file cannot be read, or a line has no end.
    """
    rest, line, told = b"", 0, 0
    with streams.opened(source) as stream:
        while piece := stream.read(BLOCK_BYTES):
            text = rest + piece
            end = text.rfind(b"\n") + 1
            if not end and len(text) > _LONGEST_LINE_BYTES:
                raise ExportError(f"{source.name}:{line + 1}: a line without an end in {len(text):,} bytes.")
            rest = text[end:]
            if end:
                lines = text[: end - 1].split(b"\n")
                yield lines, line, stream.position - told
                line, told = line + len(lines), stream.position
        if rest:
            yield [rest], line, stream.position - told
