"""A progress bar on standard error, while that is a terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sync_job.runs.watch import Watch


class Bar(Watch):
    """Draws the stages of a run."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
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

    def at(self, done: int, total: int | None = None, note: str = "") -> None:
        """Draw how far the stage is."""
        super().at(done, total, note)
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total or self._progress.tasks[0].total, note=note)

    def end(self) -> None:
        """Take the bar away."""
        self._progress.stop()
