"""Plays the scenarios: ours and its rivals, or ours with one rule taken away at a time. `make scenarios` calls it."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.scenarios import ablation, page
from benchmarks.scenarios.catalogue import BY_NAME, SCENARIOS, Scenario
from benchmarks.scenarios.play import OURS, play
from benchmarks.scenarios.tournament import compete

SEEDS, ABLATION_SEEDS = 20, 5
EVERY = 10  # runs, for the line that says how far it is


def main() -> None:
    """Play what the command line asks for, and print its tables or put them into docs/delivery.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*BY_NAME, []], help="scenarios; without, all")
    parser.add_argument("--seeds", type=int, help=f"of each; {SEEDS}, or {ABLATION_SEEDS} with --ablate")
    parser.add_argument("--ablate", action="store_true", help="take away one rule of ours at a time")
    parser.add_argument("--write", action="store_true", help="write docs/delivery.md and its plots; of all scenarios")
    asked = parser.parse_args()
    scenarios = [BY_NAME[name] for name in asked.names] or SCENARIOS
    if asked.write and scenarios is not SCENARIOS:
        parser.error("--write is for all scenarios")
    if asked.ablate:
        _ablate(scenarios, asked.seeds or ABLATION_SEEDS, write=asked.write)
    else:
        _compare(scenarios, asked.seeds or SEEDS, write=asked.write)


def _compare(scenarios: Sequence[Scenario], seeds: int, *, write: bool) -> None:
    results = compete(scenarios, page.LAWS, seeds, _progress)
    tables = {
        "figures": page.figures(scenarios, results),
        "missed": page.missed(scenarios, results),
        "laws": page.laws(scenarios, results),
        "vector": page.vector(scenarios, results),
    }
    if write:
        _draw(scenarios)
        tables["scenarios"] = page.described(scenarios)
    _show(tables, write=write)


def _ablate(scenarios: Sequence[Scenario], seeds: int, *, write: bool) -> None:
    results = compete(scenarios, (OURS, *ablation.CONTENDERS), seeds, _progress)
    _show({"ablation": page.ablated(scenarios, results)}, write=write)


def _show(tables: dict[str, str], *, write: bool) -> None:
    for name, text in tables.items():
        if write:
            page.put(name, text)
        else:
            print(f"{text}\n")
    if write:
        print(f"written: {page.PAGE}")


def _draw(scenarios: Sequence[Scenario]) -> None:
    from benchmarks.scenarios.plots import draw  # here, for it loads what only drawing needs

    page.PLOTS.mkdir(exist_ok=True)
    for scenario in scenarios:
        draw(scenario, play(scenario, 0).ticks, page.PLOTS / f"{scenario.name}.svg")


def _progress(done: int, of: int) -> None:
    if done == of or done % EVERY == 0:
        print(f"\rplayed {done:,} of {of:,}", end="\n" if done == of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
