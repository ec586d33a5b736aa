"""Words for plans, for what is held, and for what a person lets through."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sync_job.report import text


def plan(found: Mapping[str, Any], config: str = "") -> str:
    """Return what a run would send, on one screen; *config* is the file that a command in it has to name."""
    return "\n".join(_plan(found, config))


def _plan(found: Mapping[str, Any], config: str) -> Iterator[str]:
    yield f"plan for {found['target']}: {found['requests']:,} requests; nothing was sent"
    yield from text.remarks(found)
    yield from text.approval_lines(found, config)
    for run in found["recovers"]:
        yield f"  run {run} died; what it left is counted as the next run will fold it"
    if found["lists_waiting"]:
        one = found["lists_waiting"] == 1
        yield (
            f"  {text.counted(found['lists_waiting'], 'list')} in the inbox {'is' if one else 'are'} not counted yet; "
            f"the next run takes {'it' if one else 'them'} in first"
        )
    yield from text.export_lines(found["export"])
    yield text.freshness(found, found["export"])
    yield from text.decided(found["decided"])
    yield from text.grant_lines(found)
    yield from text.owed_lines(found)
    yield from text.plan_lines(found)
    times = []
    if found["least_seconds"]:
        times.append(f"{text.span(found['least_seconds'])} at least, by [delivery] max_rps")
    if found["likely_seconds"]:
        times.append(f"about {text.span(found['likely_seconds'])} at the rate of the last runs")
    if times:
        yield f"  time       {'; '.join(times)}"
    if found["plan"]:
        yield f"  plan file  {found['plan']}"


def held(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what runs held that may be approved, as a table."""
    if not found:
        return "nothing is held"
    rows = [["run", "grants", "revocations", "clients of the export", "held because"]]
    rows += [
        [one["run"], *(f"{one[name]:,}" for name in ("grants", "revocations", "clients")), "; ".join(one["guards"])]
        for one in found
    ]
    return text.table(rows)


def approved(found: Mapping[str, Any]) -> str:
    """Return what was approved, in words."""
    return (
        f"approved: {found['count']:,} {found['what']} of run {found['run']}, until {text.moment(found['until'])}. "
        "The next run sends what of it is still stated and not withdrawn."
    )


def restored(found: Mapping[str, Any]) -> str:
    """Return what was said of a restored backup, or of lost codes, in words."""
    rejected = f"; {found['rejected']:,} rows could not be read" if found["rejected"] else ""
    missing, lost = found["missing"], found["erased_missing"]
    erased = f"; {found['erased']:,} rows name people who were erased since" if found["erased"] else ""
    said = f"{found['withdrawals_since']:,} withdrawals since the backup were taken in{rejected}{erased}. "
    said += "The next run may grant again" + (", and sends every denial once more first." if found["was"] else ".")
    if missing:
        said += (
            f" Of the people who withdrew and whom nobody could name ({missing:,}) and of those known for an earlier "
            f"withdrawal, {found['recognised']:,} were recognised; whoever is left is denied when an export has their "
            "id."
        )
    if lost:
        said += (
            f" {lost:,} codes of erased people are given up: whoever of them was not forgotten once more is sent again "
            "as soon as an export has their id."
        )
    return said


def cancelled(found: Mapping[str, Any]) -> str:
    """Return what was taken back of a backfill, in words."""
    if found["left"] is None:
        return (
            f"the backfill of run {found['run']} is cancelled. What it made due cannot be told any more, because its "
            "mark is damaged: all of that stays due, and goes as the export says."
        )
    return (
        f"the backfill of run {found['run']} is cancelled: {found['taken_back']:,} of "
        f"{text.counted(found['clients'], 'client')} are not sent again. What was acknowledged stays as it is. "
        f"{text.counted(found['left'] - found['taken_back'], 'client')} stay due and are still sent: "
        f"{found['in_doubt']:,} because the request is in doubt, the others because the platform was never told."
    )
