"""What `doctor` found, in words: a line a check, the cure below it, and what it comes to."""

import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

_MARKS = {"ok": "ok", "warning": "look", "problem": "ACT", "skipped": "-"}
_WIDTH = 100
_INDENT = " " * 8


def examined(found: Mapping[str, Any], config: str, *, quiet: bool = False) -> str:
    """Return a paragraph for each area; *quiet*: only what needs somebody. *config* is the file that commands name."""
    lines: list[str] = []
    area = ""
    for one in found["checks"]:
        if quiet and one["verdict"] in ("ok", "skipped"):
            continue
        if one["area"] != area:
            area = one["area"]
            lines.append(area)
        lines += _check(one)
    if any("consent-sync " in one.get("cure", "") for one in found["checks"]):
        lines.append(f"The commands take --config {shlex.quote(config)}.")
    lines.append(_sum(found))
    return "\n".join(lines)


def _check(one: Mapping[str, Any]) -> list[str]:
    first, *more = str(one["found"]).splitlines() or [""]
    lines = _wrapped(f"  {_MARKS[one['verdict']]:<5} {one['what']}: {first}")
    for line in more:
        lines += _wrapped(f"{_INDENT}{line}")
    return lines + (_wrapped(f"{_INDENT}→ {one['cure']}") if one["cure"] else [])


def _wrapped(line: str) -> list[str]:
    # Paths and commands are copied from here: they are never cut.
    return textwrap.wrap(line, _WIDTH, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)


def _sum(found: Mapping[str, Any]) -> str:
    counts = found["counts"]
    said = f"{counts['ok']} ok, {counts['warning']} to look at, {counts['problem']} to act on"
    skipped = f", {counts['skipped']} not looked at" if counts["skipped"] else ""
    return f"{said}{skipped}: exit {found['exit']}"
