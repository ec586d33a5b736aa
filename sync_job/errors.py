"""Every error a run can end in, and the exit code it ends with.

The middle classes say what the operator does next; only they carry exit codes. What a single change ended in
is a value (`Outcome`), never an exception.
"""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of the command; `docs/operating.md` says what to do for each."""

    OK = 0
    ATTENTION = 1
    CONFIG = 2
    EXPORT = 3
    STATE = 4
    ENDPOINT = 5
    HELD = 6
    OBLIGATION = 7
    BUG = 70
    BUSY = 75
    INTERRUPTED = 130
    TERMINATED = 143


# When several reasons hold at once, the first of these is the exit code (docs/operating.md).
PRECEDENCE = (
    Exit.BUG,
    Exit.CONFIG,
    Exit.OBLIGATION,
    Exit.STATE,
    Exit.EXPORT,
    Exit.ENDPOINT,
    Exit.BUSY,
    Exit.INTERRUPTED,
    Exit.TERMINATED,
    Exit.HELD,
    Exit.ATTENTION,
    Exit.OK,
)


class ConsentSyncError(Exception):
    """What ends a run: its message says what happened, to which file or key, and what to do."""

    exit_code: Exit = Exit.BUG


class ConfigError(ConsentSyncError):
    """Mend the configuration or the command line."""

    exit_code = Exit.CONFIG


class ExportError(ConsentSyncError):
    """Mend the export, or what the configuration says of it."""

    exit_code = Exit.EXPORT


class ExportIncompleteError(ExportError):
    """The export is not there yet, or not all of it: it may still come."""


class ExportDateError(ExportError):
    """The export may be whole, and nothing tells when it was made, or it is from the future."""


class StateError(ConsentSyncError):
    """Look at the state folder before the next run."""

    exit_code = Exit.STATE


class NoStateError(StateError):
    """There is no state where the configuration says: `init` makes one."""


class StateDamagedError(StateError):
    """A file of the state is not what was written there."""


class OlderStateError(StateError):
    """The ledger is of an older version, and whoever wants to read it cannot write."""


class ForeignStateError(StateError):
    """The state belongs to another platform or operator."""


class StorageError(StateError):
    """The disk did not take what had to be durable: full, read-only or broken."""


class EndpointError(ConsentSyncError):
    """The endpoint is unreachable, not authorised, or answers nonsense: the next run carries on."""

    exit_code = Exit.ENDPOINT


class BusyError(ConsentSyncError):
    """Another run holds the lock."""

    exit_code = Exit.BUSY


class PausedError(BusyError):
    """A person paused the target: nothing is sent until `resume`."""


class RestoredStateError(StateError):
    """The state knows fewer withdrawals than it once did: nothing but a list of withdrawals may be sent."""


class CountsError(ConsentSyncError):
    """Counts that must add up do not: a bug."""

    exit_code = Exit.BUG


class TerminatedError(SystemExit):
    """SIGTERM came where nothing was in flight; where requests are, they settle first.

    It ends the interpreter if nobody heeds it, for an event loop lets nothing else but a Ctrl-C out of a callback.
    """


def exit_of(error: BaseException) -> Exit:
    """Return the exit code that a command ends with for an error; one that is none of ours is a bug."""
    if isinstance(error, ConsentSyncError):
        return error.exit_code
    if isinstance(error, TerminatedError):
        return Exit.TERMINATED
    return Exit.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Exit.BUG


def gravest(codes: set[Exit]) -> Exit:
    """Return the exit code that stands for all of *codes*; an empty set is OK."""
    return next((code for code in PRECEDENCE if code in codes), Exit.OK)
