"""When an export was made: by its files' times, their names, a column, or what its caller says."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from sync_job.config import name_pattern
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.tables import UNTIMED
from sync_job.errors import ConfigError, ExportDateError
from sync_job.exports import sources


def as_of(how: str, files: list[sources.Source], newest: int, told: float | None, zone: ZoneInfo) -> float | None:
    """Return when an export was made, in epoch seconds, by what `[export] as_of` says; none where nothing tells.

    Of several files the oldest counts; *newest* is the newest time in the column that is named, in microseconds,
    *told* what the caller says.

    Raises:
        ExportDateError: when a file's name has no time in it.
        ConfigError: when the caller was to say it and did not, or says it unasked.
    """
    if told is not None and how != "flag":
        raise ConfigError(f'--as-of is for [export] as_of = "flag"; this configuration says {how!r}.')
    if how == "mtime":
        return min(one.place.changed() for one in files)
    if how.startswith("filename:"):
        return min(_named(Path(one.name), how.removeprefix("filename:"), zone) for one in files)
    if how.startswith("column:"):
        return None if newest == UNTIMED else newest / 1e6
    if how == "flag" and told is None:
        raise ConfigError('[export] as_of = "flag": say when the export was made, with --as-of.')
    return told


def newest(
    how: str, places: list[sources.Place], zone: ZoneInfo
) -> tuple[list[sources.Place], list[tuple[str, float]]]:
    """Return the newest files, by the times in their names where `[export] as_of` says so, else by their last change.

    Files of one time are parts of one export. The second list names those that are left out, each with
    when it was made, in epoch seconds.

    Raises:
        ExportDateError: when a file has no such time.
    """
    times = [of_file(how, one, zone) for one in places]
    last = max(times)
    chosen = [one for one, made in zip(places, times, strict=True) if made == last]
    return chosen, [(one.name, made) for one, made in zip(places, times, strict=True) if made != last]


def of_file(how: str, place: sources.Place, zone: ZoneInfo) -> float:
    """Return when a file was made, by the time in its name where `[export] as_of` says so, else by its last change.

    Raises:
        ExportDateError: when its name has no such time.
    """
    if how.startswith("filename:"):
        return _named(Path(place.name), how.removeprefix("filename:"), zone)
    return place.changed()


def check(where: str, made: float | None, now: float | None) -> None:
    """Refuse an export from the future: its clock or its name is wrong, and it would outdo every later one.

    Raises:
        ExportDateError: when it is more than a quarter of an hour ahead of *now*.
    """
    if made is not None and now is not None and made > now + AHEAD_S:
        said = datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise ExportDateError(f"{where}: as of {said}, which is in the future. Mend the clock, or [export] as_of.")


def _named(path: Path, pattern: str, zone: ZoneInfo) -> float:
    for found in name_pattern(pattern).finditer(path.name):
        try:
            return datetime.strptime(found.group(), pattern).replace(tzinfo=zone).timestamp()
        except ValueError:
            continue  # digits, but no date: a batch's number, say
    raise ExportDateError(f'{path}: no time like {pattern!r} in its name, which [export] as_of = "filename:…" needs.')
