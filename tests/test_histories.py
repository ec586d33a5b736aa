"""Whatever happens to a shop, in whatever order: nobody who withdrew is allowed, and nothing owed is lost."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sync_job.standin.background import Standin, running
from sync_job.standin.options import Options
from tests.history import LATE_S, Faults, Step, World

# A short version here; `make histories` plays ten thousand.
HISTORIES = int(os.environ.get("CONSENT_SYNC_HISTORIES", "48"))
SHARDS = 16 if HISTORIES > 1000 else 2
KINDS = (
    *("crm", "crm", "night", "night", "night", "stale", "part", "truncated", "killed", "killed"),
    *("withdraw", "withdraw", "withdraw_during", "drain", "reconsent", "forget", "approve", "save", "restore"),
    *("say_restored", "wait"),
)
STEPS = st.lists(
    st.builds(Step, st.sampled_from(KINDS), st.integers(0, 4), st.integers(0, 11), st.integers(0, 11)),
    min_size=2,
    max_size=12,
)
_FIRST = count(1, 100)
_TMPFS = Path("/dev/shm")  # noqa: S108 - where there is one, a durable write costs nothing


@pytest.fixture(scope="module")
def platform() -> Iterator[tuple[Standin, Faults]]:
    """Return one platform for all histories, and what its requests meet."""
    faults = Faults()
    with running(Options(script=faults.script, late_s=LATE_S)) as started:
        yield started, faults


@pytest.mark.parametrize("shard", range(SHARDS))
def test_histories(platform: tuple[Standin, Faults], shard: int) -> None:
    """After every step, and at the end when all is well again, what is expected by the plain rules holds."""
    standin, faults = platform

    @seed(shard)
    @settings(
        max_examples=max(1, HISTORIES // SHARDS),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(steps=STEPS, beginning=st.sampled_from(("empty", "unknown")))
    def play(steps: list[Step], beginning: str) -> None:
        folder = Path(tempfile.mkdtemp(dir=_TMPFS if _TMPFS.is_dir() else None))
        try:
            world = World(folder, standin, faults, next(_FIRST), beginning)
            for step in steps:
                world.step(step)
            world.end()
        finally:
            shutil.rmtree(folder)

    play()
