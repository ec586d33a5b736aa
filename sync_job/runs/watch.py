"""What a run is doing, for those who watch it: `running.json` for other processes, a bar for a terminal."""

import time
from pathlib import Path

from sync_job.ledger import lock

_EVERY_S = 1.0


class Watch:
    """Follows a run through its stages; this one shows nothing, and says nothing until `announce` names a folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._about: dict[str, object] = {}
        self._stage, self._done, self._total = "", 0, 0
        self._note, self._rate = "", 0.0
        self._said = 0.0

    def announce(self, folder: Path, kind: str, run: str, *, hands_over: bool = False) -> None:
        """Tell other processes from now on, in *folder*; also whether it *hands over* to a nightly run that asks."""
        self._folder = folder
        self._about = {"kind": kind, "run": run, "started": time.time(), "hands_over": hands_over}
        self._say()

    def stage(self, name: str, total: int = 0) -> None:
        """Say that the next stage began, of so many steps if it is known."""
        self._stage, self._done, self._total, self._note, self._rate = name, 0, total, "", 0.0
        self._say()

    def at(self, done: int, total: int | None = None, note: str = "", rate: float = 0.0) -> None:
        """Say how far the stage is, what else there is to say of it, and how many steps a second there are."""
        self._done, self._note, self._rate = done, note, rate
        self._total = self._total if total is None else total
        if time.monotonic() - self._said >= _EVERY_S:
            self._say()

    def end(self) -> None:
        """Say that there is nothing more to show, nor to tell other processes: the next stage is of something else."""
        self._folder = None

    def _say(self) -> None:
        self._said = time.monotonic()
        if self._folder is not None:
            lock.announce(self._folder, self._about | self._so_far())

    def _so_far(self) -> dict[str, object]:
        left_s = round((self._total - self._done) / self._rate) if self._rate and self._total else None
        said = {"stage": self._stage, "done": self._done, "total": self._total, "note": self._note}
        return said | {"left_s": left_s}
