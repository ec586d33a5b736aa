"""Which files of an export are taken, and whether they are complete: by being left alone, or by what lies beside them.

Nothing is read here but what lies beside a file; that a file stays as it is while it is read is held elsewhere.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from sync_job.config import ExportSettings, duration_s
from sync_job.errors import ExportError, ExportIncompleteError
from sync_job.exports import age, naming, sources
from sync_job.exports.sources import Place, Source

NOT_ASKED = {"pick": "all", "complete": ""}  # of what is not the CRM's export
_LOOK_S = 5.0
_DIGESTS = {".sha256": 64, ".md5": 32}  # with their hexadecimal digits
_COUNTS = (".rows", ".count")
_MOST_BYTES = 1 << 20  # of a file that holds a digest or a number


@dataclass(frozen=True)
class Sidecar:
    """What a file beside an export's says of it: its digest, or how many rows it has."""

    name: str
    kind: str  # its ending
    said: str


@dataclass(frozen=True)
class Ready:
    """The files of a complete export, those that are left out, and what is said of each file."""

    places: list[Place]
    left_out: list[tuple[str, float]]  # with when each was made, in epoch seconds
    sidecars: dict[str, list[Sidecar]] = field(default_factory=dict)

    def compare(self, source: Source, sha256: str, rows: int) -> None:
        """Hold what was read of a file against what is said of it.

        Raises:
            ExportError: when it has another digest or another number of rows.
        """
        for one in self.sidecars.get(source.name, ()):
            if one.kind in _COUNTS:
                found = str(rows)
            else:
                found = sha256 if one.kind == ".sha256" else sources.digest(source.place, "md5")
            if found != one.said:
                what = "rows" if one.kind in _COUNTS else f"{one.kind.removeprefix('.')} digest"
                raise ExportError(
                    f"{source.name}: {what}: {found}, and {one.name} says {one.said}: it is not all, or not that. "
                    "Run again when the export is complete."
                )


def places(where: str, settings: ExportSettings, zone: ZoneInfo) -> list[Place]:
    """Return the files of the export at *where* as they are now, complete or not.

    Raises:
        ExportError: when there is none.
    """
    found = sources.places(where)
    return found if settings.pick == "all" else age.newest(settings.as_of, found, zone)[0]


def ready(
    where: str,
    settings: ExportSettings,
    zone: ZoneInfo,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Ready:
    """Return the files of the export at *where*, which are complete as far as `[export] complete` can tell.

    Raises:
        ExportIncompleteError: when there is none yet, or not all of it.
        ExportError: when it cannot be read, or what lies beside it says nothing that can be understood.
    """

    def chosen() -> tuple[list[Place], list[tuple[str, float]]]:
        places = sources.places(where)
        return (places, []) if settings.pick == "all" else age.newest(settings.as_of, places, zone)

    how, _, detail = settings.complete.partition(":")
    if not how:
        return Ready(*chosen())
    if where == naming.STANDARD_INPUT:
        raise ExportError(
            f'-: [export] complete = "{settings.complete}" is of files; a stream ends when it is complete.'
        )
    if how == "stable":
        return Ready(*_stable(chosen, duration_s(detail), clock, sleep))
    places, left_out = chosen()
    if how == "marker":
        for place in places:
            _marked(place, detail)
        return Ready(places, left_out)
    return Ready(places, left_out, {place.name: _sidecars(place) for place in places})


def _stable(
    chosen: Callable[[], tuple[list[Place], list[tuple[str, float]]]],
    for_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[list[Place], list[tuple[str, float]]]:
    """Return the files once none has changed for so long, by their times or before our eyes.

    Raises:
        ExportIncompleteError: when one changes meanwhile, or another one appears.
    """
    found = chosen()
    seen = {place.name: place.identity() for place in found[0]}
    began = clock()
    changed = max(place.changed() for place in found[0])
    while True:
        now = clock()
        left_s = for_s - max(now - changed, now - began)
        if left_s <= 0:
            return found
        sleep(min(left_s, _LOOK_S))
        found = chosen()
        again = {place.name: place.identity() for place in found[0]}
        if again != seen:
            name = min({name for name, _ in seen.items() ^ again.items()})
            raise ExportIncompleteError(f"{name}: still being written. Run again when the export is complete.")


def _marked(place: Place, pattern: str) -> None:
    """Hold that the marker of a file is there, in its folder or in one above it that is of the export.

    Raises:
        ExportIncompleteError: when it is not, or is older than the file.
    """
    name, changed = pattern.replace("{name}", _last(place.name)), place.changed()
    for up in range(place.below.count("/") + 1):
        marker = place.beside(name, up)
        if marker is None:
            continue
        if marker.changed() < changed:
            raise ExportIncompleteError(
                f"{place.name}: newer than {marker.name}, which says that an earlier one was complete. "
                "Run again when it is."
            )
        return
    raise ExportIncompleteError(f"{place.name}: not complete: {name} is not beside it. Run again when it is.")


def _sidecars(place: Place) -> list[Sidecar]:
    """Return what the files beside a file say of it.

    Raises:
        ExportIncompleteError: when there is none.
    """
    place.size_bytes()  # that it is not there is said before what is not beside it
    name = _last(place.name)
    endings = (*_DIGESTS, *_COUNTS)
    beside = {ending: place.beside(f"{name}{ending}") for ending in endings}
    found = [_sidecar(other, ending, name) for ending, other in beside.items() if other is not None]
    if not found:
        raise ExportIncompleteError(
            f"{place.name}: not complete: none of {', '.join(f'{name}{one}' for one in endings)} is beside it. "
            "Run again when one is."
        )
    return found


def _sidecar(place: Place, ending: str, name: str) -> Sidecar:
    """Return what a file beside the file *name* says: a number, a digest, or lines of digests and names.

    Raises:
        ExportIncompleteError: when it is empty. ExportError: when it says nothing of that file.
    """
    with sources.reading(place.name), place.open() as file:
        text = file.read(_MOST_BYTES).decode("utf-8", "replace").lstrip("\ufeff").strip()
    if not text:
        raise ExportIncompleteError(f"{place.name}: empty. Run again when the export is complete.")
    if ending in _COUNTS:
        if re.fullmatch(r"[0-9]{1,18}", text):
            return Sidecar(place.name, ending, str(int(text)))
        raise ExportError(f"{place.name}: not a number of rows. Mend it.")
    digit = f"[0-9A-Fa-f]{{{_DIGESTS[ending]}}}"
    if re.fullmatch(digit, text):
        return Sidecar(place.name, ending, text.lower())
    lines = [re.fullmatch(rf"({digit}) [ *](.+)", line.strip()) for line in text.splitlines()]
    said = {one[1].lower() for one in lines if one and _last(one[2]) == name}
    if len(said) != 1:
        raise ExportError(f"{place.name}: no digest of {name}, alone or as `digest  {name}`. Mend it.")
    return Sidecar(place.name, ending, said.pop())


def _last(name: str) -> str:
    """Return the last part of a file's name."""
    return name.removesuffix("?***").rsplit("/", 1)[-1]
