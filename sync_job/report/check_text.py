"""What `check` saw, as paragraphs and tables: how they are drawn is left to whoever prints them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sync_job.report import text

_FILES = 5  # shown with their columns; of an export of many, the others are like them
_TOKENS = 12
_REASONS = 12
_RAW = 300  # characters of a rejected row


@dataclass(frozen=True)
class Part:
    """A paragraph: what it is of, then its lines, or a table with its header first; *right* are columns of numbers."""

    title: str
    lines: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    right: tuple[int, ...] = ()
    alarming: bool = False


def plain(parts: Iterator[Part]) -> str:
    """Return the parts as lines of text, with columns one below the other."""
    lines: list[str] = []
    for part in parts:
        lines += [part.title, *(f"  {line}" for line in part.lines)]
        if part.rows:
            lines += [f"  {line}" for line in text.table(_aligned(part)).splitlines()]
    return "\n".join(lines)


def visible(raw: str) -> str:
    """Return the begin of *raw* in one line, without what a terminal would obey."""
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in raw[:_RAW])
    return shown + (" …" if len(raw) > _RAW else "")


def _aligned(part: Part) -> list[list[str]]:
    widths = [max(len(row[column]) for row in part.rows) for column in range(len(part.rows[0]))]
    return [
        [cell.rjust(widths[place]) if place in part.right else cell for place, cell in enumerate(row)]
        for row in part.rows
    ]


def check(found: Mapping[str, Any]) -> Iterator[Part]:
    """Yield what `check` saw: first what looks wrong."""
    if found["warnings"]:
        yield Part("look at", [f"! {one}" for one in found["warnings"]], alarming=True)
    for one in found["inputs"][:_FILES]:
        yield _file(one)
    if len(found["inputs"]) > _FILES:
        yield Part(f"… and {len(found['inputs']) - _FILES:,} more files")
    if mapped := found["id_map"]:
        yield Part(f"{mapped['path']}: id_map, {mapped['rows']:,} rows", [f"SHA-256    {mapped['sha256']}"])
    yield Part("rows", _rows(found))
    yield _tokens(found)
    for reason, rows in list(found["samples"].items())[:_REASONS]:
        count = found["reasons"].get(reason)
        title = f"reject: {reason}" + (f" ({count:,} rows)" if count else "")
        yield Part(title, [f"{row['file']}:{row['line']}: {visible(row['raw'])}" for row in rows])


def _file(one: Mapping[str, Any]) -> Part:
    """Return a file: how it is written, and which of its columns is what."""
    packed = f" in {one['compression']}" if one["compression"] else ""
    lines = [f"SHA-256    {one['sha256']}"]
    written = {
        "encoding": one["encoding"],
        "delimiter": one["delimiter"] and repr(one["delimiter"]),
        "lines end in": one["newline"],
        "sheet": one["sheet"],
        "partition": ", ".join(f"{key}={value}" for key, value in one["partition"].items()),
        "comments": one["comments"] and f"{one['comments']:,}",
        "headers again": one["repeated_headers"] and f"{one['repeated_headers']:,}",
    }
    if said := [f"{name} {value}" for name, value in written.items() if value]:
        lines.append(f"written    {'; '.join(said)}")
    if one["unused"]:
        shown = ", ".join(one["unused"][:20])
        lines.append(f"not read   {shown}{' …' if len(one['unused']) > 20 else ''}")
    rows = [["is", "column", "found"]]
    for column in one["mapped"]:
        if column["column"] or column["name"] != "consent_changed_at":
            rows.append(
                [column["name"], column["column"] or "-", column["by"] + (", inverted" if column["inverted"] else "")]
            )
    title = f"{one['path']}: {one['format']}{packed}, {one['size_bytes']:,} bytes, {one['rows']:,} rows"
    return Part(title, lines, rows)


def _rows(found: Mapping[str, Any]) -> list[str]:
    first, *more = (line.removeprefix("  ") for line in text.export_lines(found))
    lines = [first]
    if found["in_rejects_only"]:
        lines.append(f"  {found['in_rejects_only']:>8,} clients are in rejects only: their denials count, nothing else")
    lines += more
    if found["lowest_id"] is not None:
        lines.append(f"ids        {found['lowest_id']} to {found['highest_id']}, {found['density']:.0%} of them in use")
    if found["as_of"] is None:
        why = "not checked" if found["as_of_by"] == "none" else "not known"
        lines.append(f'age        {why} ([export] as_of = "{found["as_of_by"]}")')
    else:
        lines.append(f"age        as of {text.moment(found['as_of'])}, {found['age_h']:,.1f} h old")
    return lines


def _tokens(found: Mapping[str, Any]) -> Part:
    rows = [["channel", "token", "rows", "says"]]
    for channel, tokens in found["said"].items():
        for one in tokens[:_TOKENS]:
            shown = repr(one["token"]) if one["token"] else "blank"
            rows.append([channel, shown, f"{one['count']:,}", one["says"]])
        if len(tokens) > _TOKENS:
            left = sum(one["count"] for one in tokens[_TOKENS:])
            rows.append([channel, f"… {len(tokens) - _TOKENS:,} more", f"{left:,}", ""])
    return Part("tokens", rows=rows, right=(2,))
