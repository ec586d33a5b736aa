"""The exit code of a command: 7 if its target owes a denial past its limit, whatever the command itself ended in.

Only a bug (70) and a wrong command line or configuration (2) rank before that. A state that cannot be read owes nothing
that anybody could tell, and keeps its own code.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sync_job.errors import Exit, gravest

if TYPE_CHECKING:
    from sync_job.config import Settings
    from sync_job.report.counts import Summary


class _Command:
    """The targets of one command, and what is owed at each, counted once: the code that is shown is the one it has."""

    def __init__(self) -> None:
        self.targets: dict[Path, Settings] = {}
        self._owed: dict[Path, Summary | None] = {}

    def owed(self, path: Path) -> "Summary | None":
        from sync_job.runs import owing

        if path not in self._owed:
            self._owed[path] = owing.read(self.targets[path])
        return self._owed[path]


_command = _Command()


def begin() -> None:
    """Forget the targets of the command before."""
    global _command
    _command = _Command()


def concerns(settings: "Settings") -> None:
    """Have what is owed at this target decide how the command ends."""
    _command.targets.setdefault(settings.state.path, settings)


def code(before: int, settings: "Settings | None" = None) -> Exit:
    """Return the exit code of a command that would end in *before*, at one of its targets or for all of them."""
    from sync_job.runs import owing

    chosen = list(_command.targets) if settings is None else [settings.state.path]
    known = (path for path in chosen if path in _command.targets)
    return gravest({Exit(before), *(owing.code(_command.owed(path), Exit(before)) for path in known)})


def shown(found: "Summary") -> "Summary":
    """Return a result with the exit code that the command ends in."""
    return found | {"exit": int(code(found["exit"]))}


def last(before: int) -> int:
    """Return the code that the process ends with; if something is past its limit, say so on standard error."""
    if not _command.targets or before not in list(map(int, Exit)):
        return before
    from sync_job.runs import owing

    found = code(before)
    if found is Exit.OBLIGATION:
        for path, settings in _command.targets.items():
            if said := owing.reason(_command.owed(path)):
                typer.echo(f"consent-sync: {owing.target_of(settings)}: {said}", err=True)
    return int(found)
