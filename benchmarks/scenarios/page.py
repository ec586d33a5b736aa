"""The tables of docs/delivery.md, for the page and for a terminal; the words around them are written by hand."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.scenarios import ablation
from benchmarks.scenarios.bar import misses
from benchmarks.scenarios.catalogue import Scenario
from benchmarks.scenarios.measures import Figures
from benchmarks.scenarios.play import OURS
from benchmarks.scenarios.rivals import RIVALS
from benchmarks.scenarios.tournament import Results, Summary

PAGE = Path(__file__).resolve().parents[2] / "docs" / "delivery.md"
PLOTS = PAGE.with_suffix("")
LAWS = (OURS, *RIVALS)
SENTENCE = 80  # letters and more


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, in columns for those who read it in a terminal."""
    lines = [list(head), *map(list, rows)]
    # A sentence, as there may be in the last column, is not filled up.
    widths = [max(len(line[k]) for line in lines if len(line[k]) < SENTENCE) for k in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def put(name: str, text: str) -> None:
    """Put *text* between the page's marks of this *name*."""
    page = PAGE.read_text("utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    new, found = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)
    if found != 1:
        raise ValueError(f"{PAGE} has no marks of {name!r}")
    PAGE.write_text(new, "utf-8")


def whole(one: Figures) -> float:
    """Return the share of the capacity over the whole scenario."""
    return one.whole


def settled(one: Figures) -> float:
    """Return the share of the capacity once settled."""
    return one.settled


def _to_capacity(of: Callable[[Figures], float]) -> Callable[[Figures], float]:
    """Return a figure that counts no more than the capacity: beyond it is who keeps to no ceiling."""
    return lambda one: min(1.0, of(one))


def figures(scenarios: Sequence[Scenario], results: Results) -> str:
    """Return what ours made of each scenario: the worst seed, and the mean."""
    rows = []
    for scenario in scenarios:
        ours = results[scenario.name, OURS.name]
        recovery = _worst(ours, lambda one: one.recovery_s, "{:.1f} s") if scenario.returns else ""
        rows.append(
            (
                scenario.name,
                f"{ours.least(whole):.1%} ({ours.mean(whole):.1%})",
                f"{ours.least(settled):.1%} ({ours.mean(settled):.1%})",
                _worst(ours, lambda one: one.overshoot, "{:.0%}"),
                _worst(ours, lambda one: one.turned_away, "{:.0f}"),
                _worst(ours, lambda one: one.turned_away_share, "{:.1%}"),
                _worst(ours, lambda one: one.requests_per_row, "{:.3f}"),
                f"{ours.most(lambda one: one.lost):.0f}",
                recovery,
            )
        )
    head = ("scenario", "whole", "settled", "overshoot", "turned away", "share", "requests a row", "lost", "recovery")
    return table(head, rows)


def _worst(summary: Summary, of: Callable[[Figures], float], form: str) -> str:
    return f"{form.format(summary.most(of))} ({form.format(summary.mean(of))})"


def vector(scenarios: Sequence[Scenario], results: Results) -> str:
    """Return ours beside what Vector's own tests accept, where they have the scenario."""
    rows = []
    for scenario in scenarios:
        ours = results[scenario.name, OURS.name]
        if scenario.accepted:
            rows.append(
                (
                    scenario.name,
                    scenario.accepted,
                    f"{ours.mean(lambda one: one.per_s):.0f}/s",
                    f"{ours.mean(lambda one: one.in_flight):.1f}",
                    f"{ours.most(lambda one: one.most):.0f}",
                )
            )
    return table(("scenario", "Vector accepts", "ours, mean", "in flight, mean", "most"), rows)


def laws(scenarios: Sequence[Scenario], results: Results) -> str:
    """Return whole and settled of each law, on average over the seeds, and below it all they have in common."""
    rows = []
    for scenario in scenarios:
        own = [results[scenario.name, law.name] for law in LAWS]
        rows.append((scenario.name, *(f"{one.mean(whole):.0%} / {one.mean(settled):.0%}" for one in own)))

    def mean(of: Callable[[Figures], float]) -> list[float]:
        return [_mean(scenarios, results, law.name, of) for law in LAWS]

    def capped(of: Callable[[Figures], float]) -> list[float]:
        return mean(_to_capacity(of))

    def least(of: Callable[[Figures], float]) -> list[float]:
        return [min(results[one.name, law.name].least(of) for one in scenarios) for law in LAWS]

    rows.append(("**mean**", *(f"{a:.1%} / {b:.1%}" for a, b in zip(capped(whole), capped(settled), strict=True))))
    rows.append(("**worst**", *(f"{a:.0%} / {b:.0%}" for a, b in zip(least(whole), least(settled), strict=True))))
    rows.append(("**overshoot**, mean", *(f"{one:.0%}" for one in mean(lambda one: one.overshoot))))
    rows.append(("**turned away**, mean", *(f"{one:.1%}" for one in mean(lambda one: one.turned_away_share))))
    return table(("scenario", *(law.name for law in LAWS)), rows)


def _mean(scenarios: Sequence[Scenario], results: Results, law: str, of: Callable[[Figures], float]) -> float:
    return fmean(results[scenario.name, law].mean(of) for scenario in scenarios)


def missed(scenarios: Sequence[Scenario], results: Results) -> str:
    """Return each figure of ours that misses the bar, with its reason."""
    rows = [(one.scenario, one.figure, one.measured, one.asked, one.why) for one in misses(scenarios, results)]
    return table(("scenario", "figure", "measured", "asked", "why"), rows)


def ablated(scenarios: Sequence[Scenario], results: Results) -> str:
    """Return what is lost on average without each rule, and where most is lost with the worst seed."""
    rows = []

    def difference(law: str, of: Callable[[Figures], float]) -> float:
        return _mean(scenarios, results, law, of) - _mean(scenarios, results, OURS.name, of)

    for without in ablation.CONTENDERS:
        gaps = [
            (results[one.name, without.name].least(of) - results[one.name, OURS.name].least(of), one.name)
            for one in scenarios
            for of in (whole, settled)
        ]
        gap, where = min(gaps)
        rows.append(
            (
                without.name,
                f"{difference(without.name, whole):+.1%}",
                f"{difference(without.name, settled):+.1%}",
                f"{gap:+.1%} {where}" if gap < -0.0005 else "",
                f"{difference(without.name, lambda one: one.overshoot):+.0%}",
                f"{difference(without.name, lambda one: one.turned_away_share):+.1%}",
            )
        )
    head = ("without", "whole", "settled", "most lost by a worst seed", "overshoot", "turned away")
    return table(head, rows)


def described(scenarios: Sequence[Scenario]) -> str:
    """Return what each scenario is, with its plot."""
    return "\n\n".join(
        f"### {one.name}\n{one.rows:,} rows to an endpoint that {one.about}.\n"
        f"Capacity: {one.assumes}.\n\n![{one.name}]({PLOTS.name}/{one.name}.svg)"
        for one in scenarios
    )
