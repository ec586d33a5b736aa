"""A summary in words, for the terminal."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sync_job.errors import Exit

_EXITS = {
    Exit.OK: "all delivered",
    Exit.ATTENTION: "finished; read what was not done",
    Exit.CONFIG: "mend what is said above; the next run carries on",
    Exit.ENDPOINT: "stopped by the endpoint; the next run carries on",
    Exit.HELD: "something was held back: approve it, or mend the export",
    Exit.OBLIGATION: "an opt-out is past its limit",
    Exit.EXPORT: "the export cannot be used",
    Exit.INTERRUPTED: "interrupted; the next run carries on",
    Exit.TERMINATED: "ended from outside; the next run carries on",
}

RESTORED = "the state is a restored backup: nothing is granted until `consent-sync state restored` says what it lacks"


def summary(found: Mapping[str, Any], config: str = "") -> str:
    """Return the summary of a run as lines of text; *config* is the file that a command in it has to name."""
    return "\n".join(_lines(found, config))


def _lines(found: Mapping[str, Any], config: str) -> Iterator[str]:
    yield f"{found['kind']} {found['run']} on {found['target']}"
    yield from remarks(found)
    yield from approval_lines(found, config)
    if made := found.get("made"):
        yield (
            f"  made       {made['clients']:>12,} clients in {made['state']}; the next run sends "
            f"{made['denials_due']:,} of them a denial and {made['grants_due']:,} an *allowed*"
        )
    if export := found.get("export"):
        yield from export_lines(export)
        yield freshness(found, export)
    if decisions := found.get("decided"):
        yield from decided(decisions)
    yield from grant_lines(found)
    yield from owed_lines(found)
    yield from plan_lines(found)
    yield f"  outcomes   {found['planned']:>12,} planned: {named(found['outcomes'], *found['outcomes'])}"
    if found.get("requests"):
        yield f"  requests   {found['requests']:>12,}, {found['requests_per_s']:,.0f} a second"
    if delivery := found.get("delivery"):
        yield _delivery(delivery)
    for one in [one for one in found["codes"] if one["outcome"] != "delivered"][:10]:
        said = f"ErrorCode {one['code']} " if one["code"] is not None else ""
        yield f"    {one['count']:>8,} {one['outcome']}: {said}{one['message']}".rstrip()
    yield f"  time       {', '.join(f'{name} {seconds:.1f} s' for name, seconds in found['seconds'].items())}"
    yield f"  report     {found['folder']}"
    if page := found.get("page"):
        yield f"  page       {page}"
    yield f"exit {found['exit']}: {_EXITS.get(Exit(found['exit']), 'see docs/operating.md')}"


def _delivery(delivery: Mapping[str, Any]) -> str:
    """Return how the endpoint was found to do, in a line."""
    said = [
        f"at most {delivery['most_in_flight']} in flight, {delivery['limit']:.1f} at the end",
        f"{1000 * delivery['round_trip_s']:,.0f} ms each",
    ]
    words = {
        "turned_away": ("turned away", "turned away"),
        "pauses": ("pause asked for", "pauses asked for"),
        "outages": ("outage", "outages"),
        "once_more": ("row tried once more", "rows tried once more"),
    }
    said += [f"{delivery[name]:,} {word[delivery[name] != 1]}" for name, word in words.items() if delivery[name]]
    return f"  endpoint   {', '.join(said)}"


def remarks(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a person should know first: why the run did not end well, and what it did not let through."""
    for reason in found["reasons"]:
        yield f"  ! {reason}"
    if found["restrict_only"]:
        yield f"  grants nothing: {found['restrict_only']}"


def approval_lines(found: Mapping[str, Any], config: str = "") -> Iterator[str]:
    """Yield what may be approved and by which command, and what was."""
    run = str(found.get("run") or "").split("-")[0].lstrip("0")
    said = "" if run else "when a run has held it: "  # a plan holds nothing that could be approved
    where = f" --config {shlex.quote(config)}" if config else ""
    for what, count in (found.get("approvable") or {}).items():
        if count:
            yield (
                f'  approve    {said}consent-sync approve {run or "RUN"} --{what} {count} --reason "…" --by "…"{where}'
            )
    for one in found.get("approvals") or []:
        yield f"  approved   {one['count']:>12,} {one['what']} of run {one['run']} by {one['by']}: {one['reason']}"


def freshness(found: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    """Return how old the export was when it was read, as a line."""
    if export.get("as_of") is None:
        said = "not checked" if found["as_of"] == "none" else "not known"
        return f'  freshness  {said} ([export] as_of = "{found["as_of"]}")'
    hours = (found["started"] - export["as_of"]) / 3600
    return f"  freshness  as of {moment(export['as_of'])}, {max(0.0, hours):,.1f} h old"


def moment(seconds: float) -> str:
    """Return a time as people read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def decided(decisions: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the clients were decided, as lines."""
    names = ["planned", "unchanged", "waiting", "held", "blocked", *(["forgotten"] if decisions["forgotten"] else [])]
    yield f"  decided    {decisions['stated']:>12,} clients: {named(decisions, *names)}"
    for name, file in (("held", "held.csv"), ("blocked", "blocked.csv")):
        channels = {channel: count for channel, count in decisions[f"{name}_channels"].items() if count}
        if channels:
            yield f"    {name:<18} {named(channels, *channels)} ({file})"
    if decisions["absent"]:
        yield f"  absent     {decisions['absent']:>12,} clients of the snapshot are not in the export (absent.csv)"


def grant_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield how many grants and revocations the export asks for, as lines."""
    grants = found.get("grants")
    if not grants or not (
        grants["new"] or grants["re"] or grants["unknown"] or grants["lost"] or any(grants["revocations"].values())
    ):
        return
    revocations = {channel: count for channel, count in grants["revocations"].items() if count}
    said = {"new grants": grants["new"], "re-grants": grants["re"], "unknown ids": grants["unknown"]}
    said |= {"lost consents": grants["lost"]} if grants["lost"] else {}
    yield f"  asked for  {sum(said[name] for name in ('new grants', 're-grants')):>12,} clients' grants: " + named(
        said, *said
    )
    if revocations:
        yield f"    revocations        {named(revocations, *revocations)}"


def ambiguous(count: int) -> str:
    """Return, for people, that an id map has changed what the CRM's numbers of withdrawals mean."""
    if count == 1:
        return "1 withdrawal's CRM number means another client than when it was received; both are denied"
    return f"{count:,} withdrawals' CRM numbers mean another client than when they were received; both are denied"


def owed_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is owed to people who withdrew, as a line, and what is ambiguous; none where nothing is."""
    owed = found.get("withdrawals")
    if owed and owed.get("ambiguous"):
        yield f"  ! {ambiguous(owed['ambiguous'])}"
    if owed and (owed["open"] or owed["parked"]):
        oldest = f", the oldest since {moment(owed['oldest_started'])}" if owed["oldest_started"] else ""
        parked = f", {owed['parked']:,} parked (the platform does not know them)" if owed["parked"] else ""
        late = f", {owed['past_limit']:,} past their limit" if owed["past_limit"] else ""
        yield f"  owed       {owed['open']:>12,} clients are owed a denial{late}{oldest}{parked}"


def export_lines(export: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the export holds, as lines."""
    yield (
        f"  export     {export['rows']:>12,} rows: {export['clients']:,} clients, {export['duplicates']:,} duplicates "
        f"({export['conflicting']:,} clients with rows that disagree), {export['rejects']:,} rejects"
    )
    if export.get("others"):
        yield f"    {export['others']:>8,} rows of others, by [export.where]"
    if left := export.get("left_out"):
        yield f"    {len(left):>8,} older files left out: {', '.join(left[:5])}{' …' if len(left) > 5 else ''}"
    for reason, count in list(export["reasons"].items())[:10]:
        yield f"    {count:>8,} {reason}"
    for name in export["missing_columns"]:
        yield f"    column {name!r} is missing: it states nothing in this run"


def plan_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lanes and the transition matrix, as lines."""
    lanes = {name.replace("_", " "): count for name, count in found.get("lanes", {}).items() if count}
    if lanes:
        yield f"  planned    {sum(lanes.values()):>12,} clients, in this order: {named(lanes, *lanes)}"
    rows = {
        channel: {f"{was} → {sent}": count for was, to in matrix.items() for sent, count in to.items() if count}
        for channel, matrix in found.get("transitions", {}).items()
    }
    for channel, changes in rows.items():
        if changes:
            yield f"    {channel:<18} {named(changes, *changes)}"


def counted(count: int, noun: str) -> str:
    """Return a count and what it counts, in the plural where it is not one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def named(counts: Mapping[str, int], *names: str) -> str:
    """Return counts with their names, with commas."""
    return ", ".join(f"{counts[name]:,} {name}" for name in names)


def trial(found: Mapping[str, Any]) -> str:
    """Return a trial request and its answer, as lines of text."""
    headers = "".join(f"\n{name}: {value}" for name, value in found["headers"].items())
    said = f"ErrorCode {found['code']}, Message {found['message']!r}" if found["code"] is not None else "no ErrorCode"
    doubt = "; it may have been applied all the same" if found["in_doubt"] else ""
    answer = f"HTTP {found['status']}, {said}" if found["status"] is not None else f"none ({found['failure']})"
    return (
        f"POST {found['url']}{headers}\n\n{found['body']}\n\n"
        f"answer   {answer}\nverdict  {found['verdict']}: {found['why']}{doubt}"
    )


def clients(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what is known and due of clients, as a table."""
    word = {True: "allowed", False: "denied", None: "-"}
    fields = [name for name in found[0] if name.startswith("Allow")] if found else []
    rows = [["Client", *fields, "due", "withdrawn", "owed until"]]
    for one in found:
        limits = [owed["limit_at"] for owed in one["owed"]]
        rows.append(
            [
                str(one["Client"]),
                *(word[one[field]] for field in fields),
                one["due"] if one["known"] else "not known",
                " ".join(one["withdrawn"]) or "-",
                (moment(min(limits)) + (", parked" if one["parked"] else "")) if limits else "-",
            ]
        )
    return table(rows)


def history(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the history, as a table."""
    rows = [["run", "kind", "exit", "planned", "delivered", "refused", "exhausted", "deferred"]]
    for one in found:
        outcomes = one["outcomes"] or {}
        ended = one["stage"] if one["exit"] is None else str(one["exit"])
        numbers = [str(outcomes.get(name, "-")) for name in rows[0][4:]]
        rows.append(
            [one["run"], one["kind"], ended, str(one["planned"] if one["planned"] is not None else "-"), *numbers]
        )
    return table(rows)


def span(seconds: float) -> str:
    """Return how long something takes, as people say it."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def progress(now: Mapping[str, Any]) -> str:
    """Return how far a run is, as a line."""
    done = f" {now['done']:,} of {now['total']:,} ({now['done'] / now['total']:.1%})" if now.get("total") else ""
    left = f", about {span(now['left_s'])} left" if now.get("left_s") else ""
    note = f"; {now['note']}" if now.get("note") else ""
    return f"{now['stage']}{done}{left}{note}"


def deltas(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return in words which deltas wait for a person, each with what to do."""
    lines = [
        (
            f"{one['name']} of {moment(one['made'])} was not applied: the next delta is refused",
            "`consent-sync run` with it first",
        )
        for one in figures["missed"]
    ]
    if unsent := figures["unsent"]:
        names, clients = ", ".join(unsent["files"]), counted(unsent["grants"], "client")
        lines.append(
            (
                f"{names} was not sent whole: {clients} did not get what it grants, and no later delta says it",
                "`consent-sync run` with it once more, before the next one",
            )
        )
    return lines


def status(found: Mapping[str, Any]) -> str:
    """Return what is running now, in words."""
    lines = []
    if found["running"]:
        now = found["running"]
        name = f"{now['kind']} {now['run']}".strip()
        since = f", since {span(now['seconds'])}" if "seconds" in now else ""
        lines.append(f"{name} (process {now['pid']}){since}: {progress(now)}")
        if found["beside"]:
            lines.append(f"run {found['beside']} is under way beside it: it reads or reports, or waits for the lock")
    elif found["busy"]:
        lines.append("something holds the lock and has not said what it is")
    else:
        lines.append("nothing is running")
    if paused := found["paused"]:
        lines.append(f"paused by {paused['by']} since {moment(paused['at'])}: {paused['reason']}")
    if one := found["backfill"]:
        left = "some" if one["left"] is None else f"{one['left']:,}"
        lines.append(
            f"the backfill of run {one['run']}: {left} of {counted(one['clients'], 'client')} are still to be "
            "sent; `consent-sync run` carries it on"
        )
    lines += [RESTORED] if found["restored"] else []
    lines += [line.strip() for line in owed_lines({"withdrawals": found["owed"]})]
    lines += [f"run {run} died; the next run finishes it" for run in found["died"]]
    lines += [f"{waits}; {cure}" for waits, cure in deltas(found["deltas"])]
    if found["last"]:
        lines.append(f"the last run, {found['last']['run']}, ended with exit {found['last']['exit']}")
    return "\n".join(lines)


def table(rows: list[list[str]]) -> str:
    """Return rows of cells in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
