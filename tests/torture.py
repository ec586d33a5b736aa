"""Kills runs at random moments, again and again, while the wire has its faults too: `make torture`.

Each run is killed after a random time and run again. One that completes is held to the rules: the platform has what
the export and the lists say, nothing else was ever allowed, and few requests were repeated. Then the export changes at
random, some people withdraw, and it goes on, until there were so many kills.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sync_job.standin.background import Standin, running
from sync_job.standin.faults import Fault
from sync_job.standin.options import Options
from sync_job.standin.platform import Entry
from tests.dying import Commands, commands
from tests.shop import FIELDS, Consent, People, Shop, holds, people

CONCURRENCY, LATE_S, LINGER_S = 16, 0.3, 1.5
FAULTS = {
    **dict.fromkeys((Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.ERROR_BEFORE, Fault.ERROR_AFTER), 0.002),
    **dict.fromkeys((Fault.UNAVAILABLE, Fault.TOO_MANY, Fault.GARBAGE, Fault.REFUSE), 0.001),
    **dict.fromkeys((Fault.LATE, Fault.STALL), 0.0003),
}
_ROUNDS = 40  # runs without a kill, at most, until there is nothing left to send
_FIRST_ID = 10_000


@dataclass
class Tally:
    """How much there was of what."""

    kills: int = 0
    completed: int = 0
    requests: int = 0
    repeats: int = 0  # requests that say what was said to that client before, with nothing else in between
    most_in_a_second: int = 0


class Torture:
    """A shop whose runs are killed, and what the platform must hold in the end."""

    def __init__(self, folder: Path, platform: Standin, process: Commands, rows: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._platform, self._process = platform, process
        self._shop = Shop(folder, platform.url, concurrency=CONCURRENCY, timeout_s=1, linger_s=LINGER_S)
        self._says: People = people(rows, seed, first=_FIRST_ID)
        self._withdrawn: set[int] = set()
        self._held: dict[int, list[bool | None]] = {}
        self._place = 0
        self.tally = Tally()
        self._shop.write(self._says)
        self._shop.init("empty")

    def run(self, kills: int, longest_s: float) -> Tally:
        """Kill runs, each within *longest_s*, until there were so many kills; hold the laws after each that completes.

        Raises:
            AssertionError: when a law does not hold.
        """
        while self.tally.kills < kills:
            code = self._command(self._rng.uniform(0.0, longest_s))
            if code is None:
                self.tally.kills += 1
            else:
                assert code in (0, 1), code
                self._settle()
                self._change()
        self._settle()
        return self.tally

    def _command(self, after_s: float) -> int | None:
        return self._process.killed(
            "run", "--retry-refused", "--config", str(self._shop.config), "--quiet", after_s=after_s
        )

    def _settle(self) -> None:
        """Run until nothing is left to send and nobody lingers; then hold the laws."""
        for _ in range(_ROUNDS):
            before = self._platform.requests
            assert self._command(600.0) in (0, 1)
            time.sleep(LINGER_S)
            with self._shop.state() as state:
                left = bool(state.holdings().due.any())
            if self._platform.requests == before and not left:
                break
        else:
            raise AssertionError(f"after {_ROUNDS} runs there is something to send all the same")
        self.tally.completed += 1
        self._hold()

    def _hold(self) -> None:
        for client, flags in self._says.items():
            mine = self._held.setdefault(client, [None] * len(FIELDS))
            for k, flag in enumerate(flags):
                mine[k] = False if client in self._withdrawn else flag if flag is not None else mine[k]
        wanted = {client: tuple(flags) for client, flags in self._held.items() if any(f is not None for f in flags)}
        held = holds(self._platform.platform)
        wrong = [client for client in wanted | held if wanted.get(client) != held.get(client)]
        assert not wrong, [(client, held.get(client), wanted.get(client)) for client in wrong[:5]]
        log = self._platform.platform.log[self._place :]
        self._place += len(log)
        for entry in log:
            says = self._stated(entry.client)
            assert all(not flag or said for flag, said in zip(entry.flags, says, strict=True)), entry
        self._count(log)

    def _stated(self, client: int) -> Consent:
        return (False,) * len(FIELDS) if client in self._withdrawn else self._says[client]

    def _count(self, log: list[Entry]) -> None:
        self.tally.requests += len(log)
        each = Counter(entry.client for entry in log)
        self.tally.repeats += len(log) - len(each)
        seconds = Counter(int(entry.at_s) for entry in log)
        self.tally.most_in_a_second = max(self.tally.most_in_a_second, *seconds.values(), 0)

    def _change(self) -> None:
        """Let the CRM say something else of a share of all, and a few people withdraw."""
        some = self._rng.sample(sorted(self._says), max(1, len(self._says) * self._rng.choice((1, 5, 10)) // 10))
        changed = {client: tuple(self._rng.choice((True, False)) for _ in FIELDS) for client in some}
        self._says = self._says | changed
        self._shop.write(self._says)
        gone = self._rng.sample(sorted(set(self._says) - self._withdrawn), 5)
        self._shop.withdraw(dict.fromkeys(gone, "all"))
        self._withdrawn |= set(gone)


def tortured(folder: Path, *, rows: int, kills: int, longest_s: float, seed: int) -> Tally:
    """Torture a shop in *folder*, and return how much there was of what; repeats are held to a bound."""
    options = Options(latency_ms=1, rates=FAULTS, late_s=LATE_S, seed=seed)
    with running(options) as platform, commands() as process:
        tally = Torture(folder, platform, process, rows, seed).run(kills, longest_s)
    # A fault has its request repeated, and once more after its linger; and so has a kill those in flight and those of
    # a commit interval, for which a second stands here: a disk may be slow.
    faults = int(3 * sum(FAULTS.values()) * tally.requests) + 20
    assert tally.repeats <= 2 * (faults + tally.kills * (CONCURRENCY + tally.most_in_a_second)), tally
    return tally


def main() -> None:
    """Torture; print what there was."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--longest-s", type=float, default=4.0, help="a run is killed within so many seconds")
    parser.add_argument("--seed", type=int, default=1)
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        tally = tortured(Path(folder), rows=wish.rows, kills=wish.kills, longest_s=wish.longest_s, seed=wish.seed)
    sys.stdout.write(f"{tally}\n")


if __name__ == "__main__":
    main()
