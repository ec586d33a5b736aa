"""The pictures of the report page that show counts: what became of the rows, what changes, and what is owed.

Each is a pure function of a summary, returned as an SVG element, or "" where there is nothing to draw. What goes over
time is in `series`.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

from sync_job.report.picture import WIDTH, Paint, Picture
from sync_job.report.words import Words, capital

_PAINT: Mapping[str, Paint] = {
    "readable": "main",
    "planned": "main",
    "rejects": "refused",
    "held": "exhausted",
    "blocked": "deferred",
    "delivered": "done",
    "refused": "refused",
    "exhausted": "exhausted",
    "deferred": "deferred",
}


class _Stage(NamedTuple):
    """A whole and what it falls into: what leaves here, and at last what goes on. *more* came from elsewhere."""

    name: str
    whole: int
    parts: Sequence[tuple[str, int]]
    more: tuple[str, int] = ("", 0)


def _stages(summary: Mapping[str, Any]) -> list[_Stage]:
    """Return how rows became clients, clients changes to send, and those outcomes."""
    stages = []
    export, decided, outcomes = summary.get("export"), summary.get("decided"), summary.get("outcomes") or {}
    planned = summary.get("planned") or 0
    goes_on = 0
    if export and export["rows"]:
        lost = [(name, export[name]) for name in ("duplicates", "rejects")]
        used = export["rows"] - sum(count for _, count in lost)
        stages.append(_Stage("rows_total", export["rows"], [*lost, ("readable", used)]))
    if decided and decided["stated"]:
        lost = [(name, decided[name]) for name in ("unchanged", "forgotten", "waiting", "held", "blocked")]
        goes_on = decided["planned"] - decided["planned_unstated"]
        unread = export["in_rejects_only"] if export else 0
        parts = [*lost, ("planned", goes_on)]
        stages.append(_Stage("clients_total", decided["stated"], parts, ("flow_unread", unread)))
    if planned:
        parts = [(name, outcomes.get(name, 0)) for name in ("deferred", "exhausted", "refused", "delivered")]
        # Fewer than were decided: the run ended before the rest came into a plan.
        more = max(0, planned - goes_on) if stages else 0
        stages.append(_Stage("planned_total", planned, parts, ("flow_owed", more)))
    return stages


_HEAD, _STEP, _THICK, _THIN, _GAP = 20, 33, 14, 9, 12


def flow(summary: Mapping[str, Any], words: Words) -> str:
    """Draw what became of the rows, as a fall of bars that add up; each stage is as wide as the whole of it."""
    stages = [stage._replace(parts=_shown(stage)) for stage in _stages(summary)]
    if not stages:
        return ""
    picture = Picture(sum(_head(stage) + _THICK + _STEP * len(stage.parts) + _GAP for stage in stages))
    top = 0.0
    for number, stage in enumerate(stages):
        bar = top + _head(stage)
        own = WIDTH * min(1.0, (stage.whole - stage.more[1]) / stage.whole)
        if number:
            before = stages[number - 1]
            narrow = WIDTH * before.parts[-1][1] / before.whole
            picture.shape([(0, top - _GAP), (narrow, top - _GAP), (own, bar), (0, bar)], "main", share=0.14)
        picture.text(0, top + 14, capital(words(stage.name)), size=13, bold=True)
        picture.text(WIDTH, top + 14, words.number(stage.whole), size=13, bold=True, align="right")
        if stage.more[1]:
            picture.text(0, top + 14 + 17, words(stage.more[0], n=stage.more[1]), size=11, paint="soft")
        picture.box(0, bar, own, _THICK, "main")
        picture.box(own, bar, WIDTH - own, _THICK, "quiet")
        top = _fall(picture, bar + _THICK, stage, words) + _GAP
    said = "; ".join(
        f"{words(stage.name)} {words.number(stage.whole)}: "
        + ", ".join(f"{words(name)} {words.number(count)}" for name, count in stage.parts)
        for stage in stages
    )
    return picture.svg("flow", f"{words('plot_flow')}: {said}")


def _head(stage: _Stage) -> int:
    """Return how high the words above a stage's bar are."""
    return _HEAD + (18 if stage.more[1] else 0)


def _shown(stage: _Stage) -> list[tuple[str, int]]:
    """Return the parts of a stage but for those that are none; the last, which goes on, is always shown."""
    return [*((name, count) for name, count in stage.parts[:-1] if count), stage.parts[-1]]


def _fall(picture: Picture, top: float, stage: _Stage, words: Words) -> float:
    """Draw a stage's parts below its bar, each from where the one before it left off, and return where that ends."""
    left = stage.whole
    for name, count in stage.parts:
        end = WIDTH * left / stage.whole
        left -= count
        width = max(WIDTH * count / stage.whole, 2.0 if count else 0.0)
        start = max(0.0, min(WIDTH * left / stage.whole, end - width))
        low = top + _STEP - _THIN
        picture.box(0, low, WIDTH, _THIN, "quiet", share=0.12)
        picture.text(0, top + 18, capital(words(name)), size=12)
        picture.text(WIDTH, top + 18, words.number(count), size=12, align="right")
        picture.box(start, low, width, _THIN, _PAINT.get(name, "quiet"))
        top += _STEP
    return top


_FROM, _TO = ("nothing", "denied", "allowed"), ("denied", "allowed")
_LABELS, _COLUMN_HEAD, _ROW = 98, 30, 25


def transitions(summary: Mapping[str, Any], words: Words) -> str:
    """Draw what each channel changes from and to: a field of numbers, the darker the more."""
    found = summary.get("transitions") or {}
    counts = {(was, to): [matrix.get(was, {}).get(to, 0) for matrix in found.values()] for was in _FROM for to in _TO}
    most = max((count for row in counts.values() for count in row), default=0)
    if not most:
        return ""
    picture = Picture(_COLUMN_HEAD + len(_FROM) * (_ROW + len(_TO) * _ROW) + 4)
    column = (WIDTH - _LABELS) / len(found)
    size = min(12.0, (column - 5) / _width(words.number(most)))
    for place, channel in enumerate(found):
        for line, said in enumerate(wrap(words.named("channel", channel), 10)[:2]):
            picture.text(_LABELS + column * (place + 0.5), 11 + 13 * line, said, size=11, align="center")
    top = float(_COLUMN_HEAD)
    for was in _FROM:
        picture.text(0, top + 17, words("plot_was", was=words(was)), size=11, paint="soft")
        top += _ROW
        for to in _TO:
            picture.text(8, top + 17, f"→ {words(to)}", size=12)
            for place, count in enumerate(counts[was, to]):
                x = _LABELS + column * place
                share = 0.06 + 0.44 * math.log1p(count) / math.log1p(most) if count else 0.04
                picture.box(x + 1, top + 1, column - 2, _ROW - 2, "main" if count else "quiet", share=share)
                paint: Paint = "ink" if count else "soft"
                middle = x + column / 2
                picture.text(middle, top + 17, words.number(count), size=size, align="center", paint=paint)
            top += _ROW
    said = "; ".join(
        f"{words.named('channel', channel)}: "
        + ", ".join(
            f"{words(was)} → {words(to)} {words.number(row[place])}" for (was, to), row in counts.items() if row[place]
        )
        for place, channel in enumerate(found)
        if any(row[place] for row in counts.values())
    )
    return picture.svg("transitions", f"{words('plot_transitions')}: {said}")


def _width(number: str) -> float:
    """Return how wide a number is, in heights of its text."""
    return sum(0.6 if digit.isdigit() else 0.32 for digit in number)


_AGE_LABELS, _AGE_ROW = 92, 30


def ages(summary: Mapping[str, Any], words: Words) -> str:
    """Draw how many obligations are open by their age, with the target and the limit between them."""
    owed = summary.get("withdrawals") or {}
    groups = [(one["upto_h"], one["open"]) for one in owed.get("ages") or ()]
    most = max((count for _, count in groups), default=0)
    if not most:
        return ""
    marks = [(name, owed.get(f"{name}_h")) for name in ("target", "limit")]
    picture = Picture(_AGE_ROW * len(groups) + 12)
    room = WIDTH - _AGE_LABELS - 12 - 7.5 * len(words.number(most))
    said = []
    since_h = 0.0
    top = 8.0
    drawn: list[tuple[str, float, float]] = []
    for upto_h, count in groups:
        late = [name for name, hours in marks if hours is not None and since_h >= hours]
        paint: Paint = "refused" if "limit" in late else "exhausted" if late else "main"
        label = _age(words, since_h, upto_h)
        width = max(room * count / most, 2.0 if count else 0.0)
        picture.text(0, top + 19, label, size=12)
        picture.box(_AGE_LABELS, top + 7, width, 16, paint)
        ink: Paint = "ink" if count else "soft"
        picture.text(_AGE_LABELS + width + 5, top + 19, words.number(count), size=12, paint=ink)
        said.append(f"{label} {words.number(count)}")
        for name, hours in marks:
            if hours is not None and since_h < hours <= (upto_h or math.inf):
                share = (hours - since_h) / (upto_h - since_h) if upto_h else 0.5
                drawn.append((name, hours, top + _AGE_ROW * share))
        since_h = upto_h or since_h
        top += _AGE_ROW
    for name, hours, y in drawn:
        text = words(f"plot_{name}", span=words.hours(hours))
        picture.line([(0, y), (WIDTH, y)], "ink", dashed=name == "target")
        picture.text(WIDTH, y - 5, text, size=11, align="right")
        said.append(text)
    return picture.svg("ages", f"{words('plot_ages')}: {', '.join(said)}")


def _age(words: Words, since_h: float, upto_h: float | None) -> str:
    """Return the name of an age between two."""
    if upto_h is None:
        return words("age_over", after=words.hours(since_h))
    return words("age_upto", upto=words.hours(upto_h))
