"""The state folder of one target: where everything in it lies, and the snapshot that counts."""

import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from sync_job.consent.backfill import Again, Mark
from sync_job.consent.channels import NOBODY, Ids, Mask
from sync_job.consent.guards import NOTHING_SENT, Sent
from sync_job.consent.known import Holdings, Lingering
from sync_job.consent.settlement import OwedSince, Settlement
from sync_job.errors import NoStateError, StateError
from sync_job.ledger import files, tables
from sync_job.ledger.backfills import Backfill
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.lock import Lock

SNAPSHOTS_KEPT = 7


@dataclass(frozen=True)
class Leg:
    """The files of one leg of a run."""

    folder: Path

    @property
    def number(self) -> int:
        """The leg's place in its run."""
        return int(self.folder.name)

    @property
    def plan(self) -> Path:
        """The rows to send, written before the first request."""
        return self.folder / "plan.parquet"

    @property
    def journal(self) -> Path:
        """The outcomes."""
        return self.folder / "journal.db"


@dataclass(frozen=True)
class State:
    """One open state folder."""

    folder: Path
    ledger: Ledger
    lock: Lock | None = None  # if this process holds it
    erasing: bool = False  # for `forget`, which goes on while codes of erased clients are lost

    @classmethod
    def create(cls, folder: Path, target: str, now: float) -> Self:
        """Make a new state folder with nothing in it.

        Raises:
            StateError: when there is one already.
        """
        path = folder / "ledger.db"
        if path.exists():
            with suppress(NoStateError), Ledger.open(path, target, write=False) as ledger:
                if ledger.has_snapshot():
                    raise StateError(
                        f"{folder.absolute()}: there is state already; `init` never replaces it. Move the folder away "
                        "if it is to be given up."
                    )
            files.remove(path)
        for one in (folder, folder / "snapshots", folder / "runs", folder / "inbox"):
            files.make_folder(one)
        return cls(folder, Ledger.create(path, target, now))

    @classmethod
    def open(cls, folder: Path, target: str, *, write: bool, live: bool | None = None) -> Self:
        """Return the state in *folder*; who writes, or wants a *live* one, gets none that was given up.

        Raises:
            NoStateError, StateDamagedError, ForeignStateError: when it is not there, not whole, or another target's.
            StateError: when it was given up, or is not made yet.
        """
        state = cls(folder, Ledger.open(folder / "ledger.db", target, write=write))
        try:
            mode = stat.S_IMODE(folder.stat().st_mode)
            if mode & 0o077:
                raise StateError(
                    f"{folder.absolute()}: others may enter it (mode {mode:o}), and it holds what people consented to. "
                    f"chmod 700 {folder.absolute()}"
                )
            state.ledger.current()
            if state.ledger.about.is_carrying():
                raise StateError(
                    f"{folder.absolute()}: `init --from` did not end here; nothing is lost. Give that command again."
                )
            if live or (live is None and write):
                state.refuse_given_up()
        except BaseException:
            state.close()
            raise
        return state

    def close(self) -> None:
        """Let go of the files."""
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def refuse_given_up(self) -> None:
        """Refuse to go on with a state whose people went to another one.

        Raises:
            StateError: saying where they are.
        """
        if found := self.ledger.about.given_up():
            day = datetime.fromtimestamp(found["at"], UTC).date()
            raise StateError(
                f"{self.folder.absolute()}: given up: its people went to {found['to']} ({found['target']}) on {day}. "
                "Use the configuration of that state. Nothing was sent or taken in."
            )

    def holdings(self) -> Holdings:
        """Return the snapshot that counts.

        Raises:
            StateDamagedError: when it is not what was written.
        """
        number, digest = self.ledger.current()
        return tables.read_snapshot(self._snapshot(number), digest)

    def denied_at(self) -> list[float]:
        """Return every time at which a denial of the snapshot that counts was stated, in epoch seconds."""
        return tables.times_of(self._snapshot(self.ledger.current()[0]))

    def _snapshot(self, number: int) -> Path:
        return self.folder / "snapshots" / f"{number}.parquet"

    def commit_leg(
        self,
        run: str,
        leg: int,
        *,
        holdings: Holdings,
        lingering: Lingering,
        now: float,
        settlement: Settlement | None = None,
        owed: OwedSince | None = None,
        started: float = 0.0,
        in_doubt: Ids = NOBODY,
        stated: float | None = None,
        sent: Sent = NOTHING_SENT,
        excused: bool = False,
    ) -> int:
        """Make *holdings* the snapshot that counts; older ones but the last few are removed. Return its number."""
        number = self.ledger.next_snapshot()
        digest = tables.write_snapshot(self._snapshot(number), holdings)
        committed = self.ledger.commit_leg(
            run,
            leg,
            digest=digest,
            clients=len(holdings),
            lingering=lingering,
            now=now,
            settlement=settlement,
            owed=owed,
            started=started,
            in_doubt=in_doubt,
            stated=stated,
            sent=sent,
            excused=excused,
        )
        self._sweep_snapshots(committed)
        return committed

    def _sweep_snapshots(self, committed: int) -> None:
        """Remove the snapshots that are older than the last few."""
        for path in (self.folder / "snapshots").glob("*.parquet"):
            if path.stem.isdigit() and int(path.stem) <= committed - SNAPSHOTS_KEPT:
                files.remove(path)

    def replace_holdings(self, holdings: Holdings, now: float, also: Callable[[], None] = lambda: None) -> int:
        """Make *holdings* the snapshot that counts without a leg, and do *also* that to the ledger in the same step."""
        number = self.ledger.next_snapshot()
        digest = tables.write_snapshot(self._snapshot(number), holdings)
        committed = self.ledger.commit_snapshot(digest=digest, clients=len(holdings), now=now, also=also)
        self._sweep_snapshots(committed)
        return committed

    def begin_backfill(self, run: str, what: Mark, again: Again, approved: int, holdings: Holdings, now: float) -> None:
        """Make *holdings*, in which *what* a run marked is due, the snapshot that counts, and keep the mark."""
        files.make_folder(self.folder / "backfills")
        tables.write_mark(self._mark(run), run, what)
        one = Backfill(run, now, again.channels, again.grants, approved, len(what.client))
        self.replace_holdings(holdings, now, partial(self.ledger.backfills.begin, one))

    def mark(self, one: Backfill) -> Mark:
        """Return what a backfill made due.

        Raises:
            StateDamagedError: when it is not what was written.
        """
        return tables.read_mark(self._mark(one.run), one.run)

    def end_backfill(self, one: Backfill, how: str, now: float, holdings: Holdings | None = None) -> None:
        """End a backfill, and say *how*; *holdings* are what counts from then on, if they change by that."""
        end = partial(self.ledger.backfills.end, how, now)
        if holdings is None:
            self.ledger.do(end)
        else:
            self.replace_holdings(holdings, now, end)
        files.remove(self._mark(one.run))

    def sweep_marks(self) -> None:
        """Remove the marks of backfills that ended: who ended one may have died before the mark was removed."""
        one = self.ledger.backfills.open()
        for path in (self.folder / "backfills").glob("*.parquet"):
            if one is None or path.stem != one.run:
                files.remove(path)

    def _mark(self, run: str) -> Path:
        return self.folder / "backfills" / f"{run}.parquet"

    def people(self) -> Iterator[Ids]:
        """Yield the clients of the snapshot, of the ledger, of each held set and of the mark of a backfill.

        Raises:
            StateDamagedError: when one of those files is not what was written.
        """
        yield self.holdings().client
        yield self.ledger.people()
        for one in self.ledger.applied.held_runs():
            yield tables.read_held(self.folder / "held" / f"{one.run}.parquet").client
        if backfill := self.ledger.backfills.open():
            yield self.mark(backfill).client

    def knows(self, ids: Ids) -> Mask:
        """Return which of *ids* anything of the state names."""
        found = np.zeros(len(ids), np.bool_)
        for people in self.people():
            found |= np.isin(ids, people)
        return found

    def erase(self, ids: Ids, holdings: Holdings, now: float) -> None:
        """Make *holdings*, which lack these clients, the snapshot that counts, and keep nothing else of them."""
        number = self.ledger.next_snapshot()
        digest = tables.write_snapshot(self._snapshot(number), holdings)
        self.ledger.erase(ids, digest=digest, clients=len(holdings), now=now)
        # All earlier snapshots have them: none is kept for a look back.
        for path in (self.folder / "snapshots").glob("*.parquet"):
            if path != self._snapshot(number):
                files.remove(path)
        for path in (self.folder / "held").glob("*.parquet"):
            held = tables.read_held(path)
            tables.write_held(path, held.at(~np.isin(held.client, ids)))
        if one := self.ledger.backfills.open():
            what = self.mark(one)
            kept = ~np.isin(what.client, ids)
            tables.write_mark(self._mark(one.run), one.run, Mark(what.client[kept], what.state[kept], what.made[kept]))

    def run_folder(self, run: str) -> Path:
        """Return the folder of a run's legs."""
        return self.folder / "runs" / run

    def new_leg(self, run: str, number: int) -> Leg:
        """Return a leg whose folder is there and empty."""
        leg = Leg(self.run_folder(run) / str(number))
        files.make_folder(leg.folder)
        return leg

    def legs(self, run: str) -> list[Leg]:
        """Return the legs of a run that have a plan, in order; one without is a leg that never began."""
        folder = self.run_folder(run)
        if not folder.is_dir():
            return []
        found = sorted((Leg(path) for path in folder.iterdir() if path.name.isdigit()), key=lambda leg: leg.number)
        return [leg for leg in found if leg.plan.exists()]

    def run_names(self) -> list[str]:
        """Return the runs that have a folder, the oldest first."""
        folder = self.folder / "runs"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def remove_run(self, run: str) -> None:
        """Remove plans and journals of a run that was reported."""
        if self.run_folder(run).exists():
            files.remove(self.run_folder(run))
