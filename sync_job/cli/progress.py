"""Progress on standard error: a bar while that is a terminal, else a line a minute for what takes days."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from sync_job.report.text import progress, span
from sync_job.runs.watch import Watch

_LINE_S = 60.0
_SOON_S = 5.0  # how long a stage goes on before what is left of it can be told


class _SoFar(ProgressColumn):
    """How many steps were done, of how many if that is known, and for a stage without steps nothing."""

    def render(self, task: Task) -> Text:
        """Return the words."""
        if task.total:
            return Text(f"{task.completed:,.0f}/{task.total:,.0f} {task.percentage:>3.0f}%", "progress.download")
        return Text(f"{task.completed:,.0f}" if task.completed else "", "progress.download")


class _Left(ProgressColumn):
    """How long a stage has still to go: by its own rate if it says one, else by that of the last half minute.

    Where nobody can know, how long it has taken so far.
    """

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Return the words."""
        taken_s = task.elapsed or 0.0
        rate = task.fields["rate"] or (task.speed if taken_s >= _SOON_S else None)
        if task.total and rate:
            return Text(f"{span(max(0.0, task.total - task.completed) / rate)} left", "progress.remaining")
        return Text(f"for {span(taken_s)}" if taken_s >= 1 else "", "progress.elapsed")


class Bar(Watch):
    """Draws the stages of a run, or of anything that takes a while."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _SoFar(),
            _Left(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None

    def stage(self, name: str, total: int = 0) -> None:
        """Draw the next stage."""
        super().stage(name, total)
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total or None, note="", rate=0.0)
        self._progress.start()  # again, if it was taken away in between

    def at(self, done: int, total: int | None = None, note: str = "", rate: float = 0.0) -> None:
        """Draw how far the stage is."""
        super().at(done, total, note, rate)
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=self._total or None, note=note, rate=rate)

    def end(self) -> None:
        """Take the bar away, until there is another stage."""
        super().end()
        self._progress.stop()
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


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
