"""Plays many scenarios on all cores, and sums up what came of them over the seeds."""

import gc
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean

from benchmarks.scenarios import ablation
from benchmarks.scenarios.catalogue import BY_NAME, Scenario
from benchmarks.scenarios.measures import Figures
from benchmarks.scenarios.play import OURS, Contender, play
from benchmarks.scenarios.rivals import RIVALS

CONTENDERS = {one.name: one for one in (OURS, *RIVALS, *ablation.CONTENDERS)}


@dataclass(frozen=True)
class Summary:
    """The figures of one contender in one scenario, a value a seed."""

    runs: tuple[Figures, ...]

    def mean(self, of: Callable[[Figures], float]) -> float:
        """Return the mean of a figure."""
        return fmean(map(of, self.runs))

    def least(self, of: Callable[[Figures], float]) -> float:
        """Return the smallest of a figure."""
        return min(map(of, self.runs))

    def most(self, of: Callable[[Figures], float]) -> float:
        """Return the largest of a figure."""
        return max(map(of, self.runs))


Results = dict[tuple[str, str], Summary]  # of scenario and contender, by their names


def compete(
    scenarios: Sequence[Scenario],
    contenders: Sequence[Contender],
    seeds: int,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Results:
    """Return what each contender made of each scenario; *tell* hears how many of all were played."""
    tasks = [(one.name, other.name, seed) for one in scenarios for other in contenders for seed in range(seeds)]
    runs: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    with ProcessPoolExecutor(os.cpu_count(), initializer=gc.disable) as executor:
        played: Iterable[Figures] = executor.map(_play, tasks, chunksize=4)
        for done, ((scenario, contender, _), figures) in enumerate(zip(tasks, played, strict=True), 1):
            runs[scenario, contender].append(figures)
            tell(done, len(tasks))
    return {key: Summary(tuple(figures)) for key, figures in runs.items()}


def _play(task: tuple[str, str, int]) -> Figures:
    # What it takes to play crosses to another process by name: scenarios are made of functions.
    scenario, contender, seed = task
    figures = play(BY_NAME[scenario], seed, CONTENDERS[contender]).figures
    gc.collect()
    return figures
