"""One thing that was looked at: what was found, whether it is well, and the cure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sync_job.errors import Exit


class Verdict(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"  # a run goes on with it, and a person should look
    PROBLEM = "problem"  # a run ends of it, or something is owed too long
    SKIPPED = "skipped"  # it could not be looked at, or was not to be


@dataclass(frozen=True)
class Check:
    """What was looked at, in which area, and how it is; *code* is what a problem ends the command with."""

    area: str
    what: str
    verdict: Verdict
    found: str
    cure: str = ""
    code: Exit = Exit.OK

    def shown(self) -> dict[str, Any]:
        """Return it as `--json` shows it."""
        said = {"area": self.area, "what": self.what, "verdict": str(self.verdict), "found": self.found}
        return said | {"cure": self.cure, "exit": int(self.code)}


@dataclass(frozen=True)
class Area:
    """Makes the checks of one area; a problem in it ends the command with *code* unless one says otherwise."""

    name: str
    code: Exit

    def ok(self, what: str, found: str) -> Check:
        """Return that a thing is well."""
        return Check(self.name, what, Verdict.OK, found)

    def warning(self, what: str, found: str, cure: str = "") -> Check:
        """Return that a person should look at a thing."""
        return Check(self.name, what, Verdict.WARNING, found, cure)

    def problem(self, what: str, found: str, cure: str = "", code: Exit | None = None) -> Check:
        """Return that something has to be done."""
        return Check(self.name, what, Verdict.PROBLEM, found, cure, self.code if code is None else code)

    def skipped(self, what: str, found: str) -> Check:
        """Return that a thing was not looked at, and why."""
        return Check(self.name, what, Verdict.SKIPPED, found)


def ago(seconds: float) -> str:
    """Return a length of time as people say it: seconds, minutes, hours, or days."""
    for size, unit in ((86400 * 2, "days"), (3600 * 2, "hours"), (60 * 2, "minutes")):
        if seconds >= size:
            return f"{seconds / (size / 2):,.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"
