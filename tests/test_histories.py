"""Whatever happens to a shop, and in whatever order: nobody who withdrew is allowed, and nothing that is owed is lost.

A short version is part of the suite; `make histories` plays ten thousand, or as many as CONSENT_SYNC_HISTORIES says,
beginning with the seed CONSENT_SYNC_SEED.
"""

import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests.history import CLIENTS, LATE_S, STRANGER_EVERY, Faults, Step, World

SHORT, LONG, SHARD = 10, 10_000, 50
KINDS = (
    *("crm", "crm", "crm_all", "night", "night", "night", "night", "stale", "part", "truncated", "blemished"),
    *("restrict_only", "killed", "killed", "cut", "cut", "withdraw", "withdraw", "cross", "cross", "regret"),
    *(
        "withdraw_during",
        "withdraw_during",
        "drain",
        "reconsent",
        "reconsent",
        "forget",
        "approve",
        "approve",
        "close",
        "void",
    ),
    *("save", "restore", "restore", "restore", "say_restored", "wait"),
)
STEPS = st.lists(
    st.builds(Step, st.sampled_from(KINDS), st.integers(0, CLIENTS - 1), st.integers(0, 11), st.integers(0, 11)),
    min_size=4,
    max_size=18,
)
_TMPFS = Path("/dev/shm")  # noqa: S108 - where there is one, a durable write costs nothing


def play(number: int, histories: int) -> Counter[str]:
    """Play some histories of a seed, and return how many, and how often each step came, unless a law is broken."""
    faults = Faults()
    played: Counter[str] = Counter()
    with running(Options(script=faults.script, late_s=LATE_S, unknown_every=STRANGER_EVERY)) as platform:

        @seed(number)
        @settings(
            max_examples=histories,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(steps=STEPS, beginning=st.sampled_from(("empty", "equal", "unknown")))
        def one(steps: list[Step], beginning: str) -> None:
            played["histories"] += 1
            played.update(step.kind for step in steps)
            folder = Path(tempfile.mkdtemp(prefix="histories-", dir=_TMPFS if _TMPFS.is_dir() else None))
            world = None
            try:
                with capture_logs():
                    world = World(folder, platform, faults, 1 + 2 * CLIENTS * played["histories"], beginning)
                    for step in steps:
                        world.step(step)
                    world.end()
            except Exception as exc:
                exc.add_note("\n".join(world.told if world else ["it did not begin"]))
                raise
            finally:
                shutil.rmtree(folder)

        one()
    return played


def test_histories() -> None:
    """After every step, and at the end when all is well again, what is expected by the plain rules holds."""
    assert play(0, SHORT)["histories"] >= SHORT


def main(histories: int, first: int) -> int:
    """Play many histories on all cores, say how many they were, and show each that broke a law; return how many did."""
    began, total, broken = time.monotonic(), Counter[str](), 0
    shards = -(-histories // SHARD)
    # Most of their time they wait for somebody to linger no more.
    with ProcessPoolExecutor(3 * (os.cpu_count() or 1), get_context("spawn")) as pool:
        playing = {
            pool.submit(play, first + shard, min(SHARD, histories - shard * SHARD)): first + shard
            for shard in range(shards)
        }
        for done in as_completed(playing):
            if error := done.exception():
                broken += 1
                sys.stderr.write(f"seed {playing[done]}:\n{''.join(traceback.format_exception(error))}\n")
            else:
                total.update(done.result())
            sys.stderr.write(f"{total['histories']:,} of {histories:,}\n")
    steps = ", ".join(f"{count:,} {kind}" for kind, count in sorted(total.items()) if kind != "histories")
    count = sum(total.values()) - total["histories"]
    played = f"{total['histories']:,} histories, {count:,} steps, {time.monotonic() - began:,.0f} s"
    sys.stdout.write(f"{played}: {broken or 'none'} broke a law\n{steps}\n")
    return min(broken, 1)


if __name__ == "__main__":
    chosen = int(os.environ.get("CONSENT_SYNC_HISTORIES") or LONG)
    sys.exit(main(chosen, int(os.environ.get("CONSENT_SYNC_SEED") or 0)))
