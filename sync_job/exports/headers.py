"""Which column of a file is which: by its exact name, or by its name without case, blanks, `_` and `-`."""

from collections.abc import Iterable

from sync_job.errors import ExportError


def matched(file: str, names: list[str], wanted: Iterable[str]) -> dict[str, str]:
    """Return which of *names* are called otherwise than in *wanted* and meant all the same, each with its wanted name.

    An exact name goes before all others: a name that is wanted as it stands means nothing else.

    Raises:
        ExportError: when two columns may be meant by one name, or one by two.
    """
    wanted = list(dict.fromkeys(name for name in wanted if name))
    free: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        if name not in wanted:
            free.setdefault(plain(name), []).append(name)
    found: dict[str, str] = {}
    for name in wanted:
        meant = free.get(plain(name), []) if name not in names and plain(name) else []
        if len(meant) > 1:
            raise ExportError(
                f"{file}: no column {name!r}, and {' and '.join(map(repr, meant))} may both be meant: nobody can tell "
                "which. Name one of them exactly."
            )
        if meant and meant[0] in found:
            raise ExportError(
                f"{file}: column {meant[0]!r} may be meant by {found[meant[0]]!r} and by {name!r}: nobody can tell by "
                "which. Name it exactly."
            )
        if meant:
            found[meant[0]] = name
    return found


def plain(name: str) -> str:
    """Return *name* without case, blanks, `_` and `-`."""
    return "".join(letter for letter in name.casefold() if letter not in "_-" and not letter.isspace())
