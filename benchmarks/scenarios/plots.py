"""Draws how a scenario went: the limit and what is in flight, and below it what is delivered of the capacity."""

import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.scenarios.catalogue import Scenario
from benchmarks.scenarios.play import TICK_S, Tick

OVER_S = 0.5  # a row a second is drawn over so long
MOST_POINTS = 400  # of a line; a screen shows no more
LINE, FADED, GROUND = "#0b6e99", "#e39b3b", "#d9dee3"


def draw(scenario: Scenario, ticks: tuple[Tick, ...], to: Path) -> None:
    """Write the plot of one run as SVG; the same run gives the same file."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": scenario.name, "font.size": 9}):
        # A figure of its own, not pyplot's: no state is shared, and no screen is asked for.
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        every = max(1, len(ticks) // MOST_POINTS)
        at = [tick.at for tick in ticks[::every]]
        most = _most_each(ticks, every)
        above.step(at, [scenario.need(moment) for moment in at], where="post", color=GROUND, lw=5, label="needed")
        above.plot(at, most[: len(at)], color=FADED, lw=1, label="in flight")
        above.plot(at, [tick.limit for tick in ticks[::every]], color=LINE, lw=1.4, label="limit")
        above.set_ylabel("requests")
        above.set_title(scenario.name, loc="left", fontweight="bold")
        below.step(at, [scenario.capacity(moment) for moment in at], where="post", color=GROUND, lw=5, label="capacity")
        below.plot(at, _goodput(ticks)[::every], color=LINE, lw=1.4, label=f"delivered, over {OVER_S:g} s")
        below.set_ylabel("rows a second")
        below.set_xlabel("seconds")
        for axes in (above, below):
            _plain(axes)
        figure.savefig(to, metadata={"Date": None, "Creator": None})
    to.write_text(_compact(to.read_text("utf-8")), "utf-8")


def _most_each(ticks: tuple[Tick, ...], every: int) -> list[int]:
    """Return the most in flight of each stretch that is drawn as one point."""
    return [max(tick.in_flight for tick in ticks[k : k + every]) for k in range(0, len(ticks), every)]


def _goodput(ticks: tuple[Tick, ...]) -> list[float]:
    """Return the rows a second over the `OVER_S` around each tick, less at both ends."""
    half = round(OVER_S / TICK_S / 2)
    rates = []
    for k in range(len(ticks)):
        first, last = ticks[max(0, k - half)], ticks[min(len(ticks) - 1, k + half)]
        rates.append((last.delivered - first.delivered) / max(TICK_S, last.at - first.at))
    return rates


def _plain(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _compact(svg: str) -> str:
    """Return the drawing with a tenth of a point as its precision."""
    return re.sub(r"(\d+\.\d)\d+", r"\1", svg)
