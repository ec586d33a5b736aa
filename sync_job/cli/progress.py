"""Progress on standard error: a bar while that is a terminal, else a line a minute for what takes days."""

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from sync_job.report.text import progress
from sync_job.runs.watch import Watch

_LINE_S = 60.0


class Bar(Watch):
    """Draws the stages of a run."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None

    def stage(self, name: str, total: int = 0) -> None:
        """Draw the next stage."""
        super().stage(name, total)
        if self._task is None:
            self._progress.start()
        else:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total or None, note="")

    def at(self, done: int, total: int | None = None, note: str = "", rate: float = 0.0) -> None:
        """Draw how far the stage is."""
        super().at(done, total, note, rate)
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total or self._progress.tasks[0].total, note=note)

    def end(self) -> None:
        """Take the bar away."""
        self._progress.stop()


class Lines(Watch):
    """Says once a minute how far a run is."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = time.monotonic()

    def at(self, done: int, total: int | None = None, note: str = "", rate: float = 0.0) -> None:
        """Say how far the stage is, if a minute has passed."""
        super().at(done, total, note, rate)
        if time.monotonic() - self._shown >= _LINE_S:
            self._shown = time.monotonic()
            sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {progress(self._so_far())}\n")
            sys.stderr.flush()
