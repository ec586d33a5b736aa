"""Whatever happens to a shop, and in whatever order, the laws of `history.py` hold.

A few hundred histories are part of the suite; `make histories` plays ten thousand on all cores, or as many as
CONSENT_SYNC_HISTORIES says, beginning with the seed CONSENT_SYNC_SEED.
"""

import gc
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from tests.expected import LawError
from tests.history import Step, World
from tests.machine import Machine, simulated

SHORT, LONG, SHARD = 200, 10_000, 50
_WEIGHTS = {
    "crm": 8,
    "crm_many": 3,
    "night": 10,
    "bad_night": 10,
    "doubtful": 4,
    "stale": 5,
    "part": 4,
    "relapse": 3,
    "wobble": 3,
    "neglect": 3,
    "reapply": 2,
    "lost_grant": 3,
    "enroll": 1,
    "desk": 3,
    "withdraw": 5,
    "withdraw_badly": 5,
    "repeat": 3,
    "drain": 4,
    "reconsent": 3,
    "approve": 6,
    "close": 2,
    "void": 2,
    "compare": 2,
    "backfill": 2,
    "cancel_backfill": 1,
    "undo": 2,
    "plan": 2,
    "apply": 3,
    "backup": 3,
    "restore": 3,
    "lose": 1,
    "retarget": 1,
    "forget": 3,
    "remap": 2,
    "jump": 2,
    "pass_days": 4,
    "pause": 2,
    "sicken": 2,
    "no_export": 2,
    "carry": 3,
    "forget_many": 1,
    "old_list": 2,
    "full_disk": 3,
    "brands": 1,
    "status": 2,
}
_TMPFS = Path("/dev/shm")  # noqa: S108 - where there is one, files cost nothing


class Broken(NamedTuple):
    """A history that broke a law: the seed of its shop, its steps, and what happened."""

    seed: int
    steps: list[Step]
    law: str
    told: str


def steps_of(seed: int) -> list[Step]:
    """Return what happens in the history of a seed."""
    rng = Random(seed)
    kinds = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=rng.randint(3, 12))
    return [Step(kind, rng.randrange(1 << 30)) for kind in kinds]


def play(use: Callable[[Machine], None], seed: int, steps: list[Step]) -> Broken | None:
    """Play one history within `simulated`, and return how it broke a law, if it did."""
    with kept_folder() as folder:
        world = World(folder, seed)
        use(world.machine)
        try:
            world.begin()
            for step in steps:
                world.step(step)
            world.end()
        except LawError as error:
            return Broken(seed, steps, error.law, "\n".join([*world.told, str(error)]))
        except Exception:  # noqa: BLE001 - it is shown with what led to it
            return Broken(seed, steps, "error", "\n".join([*world.told, traceback.format_exc()]))
    return None


@contextmanager
def kept_folder() -> Iterator[Path]:
    """Give a folder in memory, for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="histories-", dir=_TMPFS if _TMPFS.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def shrunk(use: Callable[[Machine], None], broken: Broken) -> Broken:
    """Return a history with as few of the steps as still break that law."""
    place = len(broken.steps)
    while place:
        place -= 1
        fewer = play(use, broken.seed, broken.steps[:place] + broken.steps[place + 1 :])
        if fewer is not None and fewer.law == broken.law:
            broken = fewer
            place = min(place, len(broken.steps))
    return broken


def several(first: int, histories: int, *, most: int = 1) -> tuple[Counter[str], list[Broken]]:
    """Play histories from a seed on; return how often each step came, and those that broke a law, *most* at most."""
    played: Counter[str] = Counter()
    broken: list[Broken] = []
    gc.collect()
    gc.freeze()  # what is imported stays
    with simulated() as use:
        for seed in range(first, first + histories):
            steps = steps_of(seed)
            played["histories"] += 1
            played.update(step.kind for step in steps)
            if found := play(use, seed, steps):
                broken.append(shrunk(use, found))
                if len(broken) >= most:
                    break
    return played, broken


def shown(broken: Broken) -> str:
    """Return what a person needs to see what happened, and to play it again."""
    steps = ", ".join(f'Step("{step.kind}", {step.seed})' for step in broken.steps)
    return f"{broken.law} is broken by seed {broken.seed} with [{steps}]:\n{broken.told}\n"


@pytest.mark.parametrize("first", range(0, SHORT, SHARD))
def test_histories(first: int) -> None:
    """After every step, and at the end when all is well again, the laws hold."""
    _, broken = several(first, SHARD)
    assert not broken, shown(broken[0])


def test_histories_repeat() -> None:
    """A seed always gives the same history, whatever it is played after."""
    told = []
    with simulated() as use:
        for _ in range(2):
            with kept_folder() as folder:
                world = World(folder, 3)
                use(world.machine)
                world.begin()
                for step in steps_of(3):
                    world.step(step)
                told.append([line.replace(str(folder), "") for line in world.told])
    assert told[0] == told[1]


def main(histories: int, first: int) -> int:
    """Play many histories on all cores, show each that broke a law, and return whether one did."""
    began, total, broken = time.monotonic(), Counter[str](), 0
    starts = range(first, first + histories, SHARD)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        playing = [pool.submit(several, start, min(SHARD, first + histories - start), most=SHARD) for start in starts]
        for done in as_completed(playing):
            played, found = done.result()
            total.update(played)
            broken += len(found)
            for one in found:
                sys.stderr.write(f"{shown(one)}\n")
            sys.stderr.write(f"{total['histories']:,} of {histories:,}, {broken:,} broken\n")
    steps = ", ".join(f"{count:,} {kind}" for kind, count in sorted(total.items()) if kind != "histories")
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{total['histories']:,} histories, {total.total() - total['histories']:,} steps, {seconds:,.0f} s, "
        f"{total['histories'] / seconds:.1f} a second: {broken or 'none'} broke a law\n{steps}\n"
    )
    return min(broken, 1)


if __name__ == "__main__":
    chosen = int(os.environ.get("CONSENT_SYNC_HISTORIES") or LONG)
    sys.exit(main(chosen, int(os.environ.get("CONSENT_SYNC_SEED") or 0)))
