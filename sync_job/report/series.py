"""The pictures of the report page that go over time: how sending went in a run, and how the last runs went.

Each is a pure function of summaries, returned as an SVG element, or "" where there is nothing to draw. Only the time
has ticks: beside the curves stand numbers that were measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sync_job.report.headline import DRAINS
from sync_job.report.picture import WIDTH, Align, Paint, Picture
from sync_job.report.words import Words

MOST = 30  # nights and drains that are drawn


class _Curve(NamedTuple):
    """A curve of a panel: its name in the catalogue, the sample's value, and how it is drawn."""

    name: str
    key: str
    paint: Paint
    dashed: bool = False


_PANELS: Sequence[tuple[Sequence[_Curve], Callable[[Words, float], str]]] = (
    ((_Curve("plot_rate", "rate", "main"),), lambda words, value: words.number(value, 1 if value < 10 else 0)),
    ((_Curve("plot_round_trip", "round_trip_s", "deferred"),), lambda words, value: words.span(value)),
    (
        (_Curve("plot_in_flight", "in_flight", "main"), _Curve("plot_limit_of", "limit", "exhausted", dashed=True)),
        lambda words, value: words.number(value, 1 if value < 10 and value != int(value) else 0),
    ),
)
_CURVE, _TITLE = 62, 24


def throughput(summary: Mapping[str, Any], words: Words) -> str:
    """Draw rows a second, the round trip, and the limit with what was in flight, over the time of a run."""
    samples = sorted(summary.get("samples") or (), key=lambda one: float(one["s"]))
    if not samples:
        return ""
    times = [float(one["s"]) for one in samples]
    first, last = times[0], times[-1]
    if first == last:
        first, last = first - 1, last + 1
    picture = Picture(len(_PANELS) * (_TITLE + _CURVE + 14) + 18)
    top = 0.0
    said = []
    for curves, written in _PANELS:
        values = {curve: [float(one[curve.key]) for one in samples] for curve in curves}
        most = max(max(found) for found in values.values())
        x = 0.0
        for curve in curves:
            name = words(curve.name)
            if len(curves) > 1:
                picture.line([(x, top + 13), (x + 16, top + 13)], curve.paint, width=2, dashed=curve.dashed)
                x += 21
            picture.text(x, top + 17, name, size=12, bold=True)
            x += 8.5 * len(name) + 12
            said.append(words("plot_most", name=name, most=written(words, max(values[curve]))))
        picture.text(WIDTH, top + 17, words("plot_at_most", most=written(words, most)), size=11, align="right")
        panel = (0.0, top + _TITLE, float(WIDTH), float(_CURVE))
        _rules(picture, panel)
        for curve, found in values.items():
            points = list(_placed(panel, times, found, (first, last), most))
            picture.line(points, curve.paint, width=1.8, dashed=curve.dashed, dots=len(points) == 1)
        top += _TITLE + _CURVE + 14
    _times(picture, top - 14, times, words)
    label = f"{words('plot_throughput', span=words.span(times[-1] - times[0]))}: {', '.join(said)}"
    return picture.svg("throughput", label)


_Place = tuple[float, float, float, float]


def _rules(picture: Picture, panel: _Place) -> None:
    """Draw where nothing and the most are."""
    x, y, width, height = panel
    picture.line([(x, y), (x + width, y)], "rule", width=0.7)
    picture.line([(x, y + height), (x + width, y + height)], "soft", width=0.7)


def _placed(
    panel: _Place, times: Iterable[float], values: Iterable[float], span: tuple[float, float], most: float
) -> Iterable[tuple[float, float]]:
    """Yield where the points of a curve lie."""
    x, y, width, height = panel
    for at, value in zip(times, values, strict=True):
        yield x + width * (at - span[0]) / (span[1] - span[0]), y + height * (1 - value / (most or 1))


_TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 4 * 3600, 8 * 3600, 24 * 3600)


def _times(picture: Picture, top: float, times: Sequence[float], words: Words) -> None:
    """Write a few times below the last panel, in seconds, minutes or hours since the run began."""
    first, last = times[0], times[-1]
    if first == last:
        picture.text(WIDTH / 2, top + 15, words.span(first), size=11, align="center", paint="soft")
        return
    step = next((step for step in _TICKS_S if (last - first) / step <= 4), (last - first) / 4)
    ticks = [step * number for number in range(int(first // step), int(last // step) + 1) if step * number >= first]
    for at in ticks if len(ticks) > 1 else [first, last]:
        x = WIDTH * (at - first) / (last - first)
        picture.line([(x, top), (x, top + 3)], "soft", width=0.7)
        near = 22
        align: Align = "left" if x < near else "right" if x > WIDTH - near else "center"
        place = 0 if x < near else WIDTH if x > WIDTH - near else x
        picture.text(place, top + 15, words.span(at) if at else "0", size=11, align=align, paint="soft")


class _Trend(NamedTuple):
    """A row of bars, one a run: its name in the catalogue, the value of a run, how it is written, and its colour."""

    name: str
    value: Callable[[Mapping[str, Any]], float]
    written: Callable[[Words, float], str]
    paint: Paint


def _number(words: Words, value: float) -> str:
    return words.number(value)


def _outcome(name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda found: float((found.get("outcomes") or {}).get(name, 0))


def _undelivered(found: Mapping[str, Any]) -> float:
    return sum(float(count) for name, count in (found.get("outcomes") or {}).items() if name != "delivered")


_OF_NIGHTS = (
    _Trend("planned", lambda found: found.get("planned") or 0, _number, "main"),
    _Trend("delivered", _outcome("delivered"), _number, "done"),
    _Trend("refused", _outcome("refused"), _number, "refused"),
    _Trend("rejects", lambda found: (found.get("export") or {}).get("rejects", 0), _number, "exhausted"),
    _Trend("plot_duration", lambda found: found["ended"] - found["started"], lambda w, value: w.span(value), "quiet"),
)
_OF_DRAINS = (
    _Trend("delivered", _outcome("delivered"), _number, "done"),
    _Trend("plot_undelivered", _undelivered, _number, "refused"),
)
_BARS, _ROW = 34, 62
_FEWEST = 10  # a few runs are drawn as narrow as so many


def trend(summaries: Iterable[Mapping[str, Any]], words: Words) -> str:
    """Draw the last nights as rows of bars, one row for each thing that may get worse, and drains apart."""
    ordered = sorted(summaries, key=lambda found: float(found["started"]))
    nights = [found for found in ordered if found["kind"] not in DRAINS][-MOST:]
    drains = [found for found in ordered if found["kind"] in DRAINS][-MOST:]
    parts = [part for part in (("nights", nights, _OF_NIGHTS), ("drains", drains, _OF_DRAINS)) if part[1]]
    if len(nights) < 2:
        return ""
    head = 26 if len(parts) > 1 else 0
    picture = Picture(sum(head + _ROW * len(trends) + 26 for _, _, trends in parts))
    top = 0.0
    said = []
    for title, found, trends in parts:
        said.append(words(title, n=len(found)))
        if head:
            picture.text(0, top + 16, said[-1], size=13, bold=True)
        top += head
        for one in trends:
            said.append(_bars(picture, top, one, found, words))
            top += _ROW
        picture.text(0, top + 10, words.date(found[0]["started"]), size=11, paint="soft")
        width = _slot(found) * len(found)
        if width > WIDTH / 2:
            picture.text(width, top + 10, words.date(found[-1]["started"]), size=11, paint="soft", align="right")
        top += 26
    return picture.svg("trend", f"{words('plot_trend')}: {'; '.join(said)}")


def _slot(found: Sequence[object]) -> float:
    return WIDTH / max(_FEWEST, len(found))


def _bars(picture: Picture, top: float, one: _Trend, found: Sequence[Mapping[str, Any]], words: Words) -> str:
    """Draw a row of bars, the last one in full colour, and return what it shows in words."""
    values = [one.value(run) for run in found]
    name, last, most = words(one.name), one.written(words, values[-1]), one.written(words, max(values))
    picture.text(0, top + 13, name[:1].upper() + name[1:], size=12)
    picture.text(WIDTH, top + 13, last, size=12, bold=True, align="right")
    if most != last:
        beside = WIDTH - 8.2 * len(last) - 10
        picture.text(beside, top + 13, words("plot_at_most", most=most), size=11, paint="soft", align="right")
    high = _height(values)
    low = top + 20 + _BARS
    slot = _slot(found)
    picture.line([(0, low), (WIDTH, low)], "rule", width=0.7)
    for place, value in enumerate(values):
        height = max(1.5, _BARS * min(1.0, value / high)) if value else 0.0
        share = 1.0 if place == len(values) - 1 else 0.55
        x, width = slot * place + 1, slot - 2
        if value > high:  # too high to be drawn: a gap says so
            picture.box(x, low - height, width, 5, one.paint, share=share)
            height -= 8
        picture.box(x, low - height, width, height, one.paint, share=share)
    return words("plot_last_and_most", name=name, last=last, most=most)


def _height(values: Sequence[float]) -> float:
    """Return what the full height stands for: the most, unless that is out of all proportion to what is usual."""
    most = max(values) or 1
    usual = sorted(values)[3 * len(values) // 4]
    return min(most, 4 * usual or most) if len(values) >= _FEWEST else most
