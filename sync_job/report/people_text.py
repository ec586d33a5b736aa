"""Words about single clients: what is known and decided, what was sent, who was erased, how a dump differs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sync_job.report import text


def explained(found: Mapping[str, Any]) -> str:
    """Return everything of one client, as lines."""
    return "\n".join(_explained(found))


def _explained(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"client {found['client']} at {found['target']}"
    if found["forgotten"]:
        yield "  erased: nothing of an export is sent or kept for this client"
    for row in found["rows"]:
        yield f"  {row['file']}:{row['line']}: {row['text']}"
    if found["with_export"] and not found["rows"]:
        yield "  no row of the export names it"
    if found["why_not"]:
        yield f"  no grant: {found['why_not']}"
    if any(one["held"] for one in found["channels"].values()):
        yield from (f"  guard: {trip}" for trip in found["guards"])
    for one in found["held"]:
        yield f"  held by run {one['run']}: {one['stated']} ({'; '.join(one['guards'])})"
    rows = [["channel", "export", "State", "Due", "withdrawn", "rule", "target", "because"]]
    for channel, one in found["channels"].items():
        withdrawn = ("owed" if one["owed"] else "yes") if one["withdrawn"] else ""
        words = [one["statement"], one["state"], one["due"], withdrawn, one["rule"], one["target"], one["why"]]
        rows.append([channel, *(word if word != "nothing" else "-" for word in words)])
    yield text.table(rows)
    yield from _said(found)
    for one in found["coming"]:
        yield (
            f"  on list {one['list'][:12]}, which no run has taken in yet: withdraws {one['channels']}, received "
            f"{text.moment(one['received_at'])}"
        )
    if found["lingers"]:
        since = "and was acknowledged since" if found["acknowledged_since"] else "and waits for a sure answer"
        yield f"  lingering: a request may still be applied late, {since}"
    if waits := found["waiting"]:
        unknown = ", the platform does not know it" if waits["not_found"] else ""
        yield (
            f"  refused {waits['tries']} times, last {text.moment(waits['since'])}: sent {waits['sent']}{unknown}; "
            f"next try from {text.moment(waits['next_at'])}"
        )
    if found["requests"]:
        yield f"  would be sent now: {found['would_send']} (Sms, Email, Push, EmailOnlineCheque)"
        for format_, body in found["requests"].items():
            yield f"    {format_}: {body}"
    else:
        yield f"  nothing would be sent now: {found['why_nothing']}"


def _said(found: Mapping[str, Any]) -> Iterator[str]:
    for one in found["withdrawals"]:
        force = f"in force for {one['in_force']}" if one["in_force"] else "not in force any more"
        void = ", its list is void" if one["voided"] else ""
        yield (
            f"  withdrew {one['channels']} {_withdrawn(one)} ({one['basis']}), received "
            f"{text.moment(one['received_at'])}, list {one['list'][:12]}{_reference(one['request_ref'])}"
            f"{_given(one['given'])}: {force}{void}"
        )
    for one in found["reconsents"]:
        yield (
            f"  consented again to {one['channels']} at {text.moment(one['granted_at'])} ({one['method']}, "
            f"{one['evidence_ref']})"
        )
    for one in found["obligations"]:
        state = (
            f"owed: {one['owed']}, until {text.moment(one['limit_at'])}" if one["owed"] else f"ended: {one['ended']}"
        )
        at = f" at {text.moment(one['closed'])}" if one["closed"] else ""
        by = f" by {one['by']}: {one['reason']}" if one["by"] else ""
        yield f"  denial of {one['channels']} since {text.moment(one['started'])} ({one['source']}), {state}{at}{by}"


def _withdrawn(one: Mapping[str, Any]) -> str:
    return f"on {one['withdrawn_on']}" if one["withdrawn_on"] else f"at {text.moment(one['withdrawn_at'])}"


def _given(numbers: Sequence[int]) -> str:
    return f", given as the CRM's {', '.join(map(str, numbers))}" if numbers else ""


def _reference(text_: str) -> str:
    return f", reference {text_}" if text_ else ""


def history(found: Mapping[str, Any]) -> str:
    """Return what was sent of one client and answered, as lines."""
    lines = [
        f"client {found['client']} at {found['target']}: {len(found['sent'])} requests in the reports that are kept"
    ]
    rows = [["run", "leg", "lane", "State", "sent", "outcome", "attempts", "HTTP", "code", "message", "settled"]]
    for one in found["sent"]:
        rows.append(
            [
                one["run"],
                *(str(one[name]) for name in ("leg", "lane", "state", "sent", "outcome", "attempts")),
                *("" if one[name] is None else str(one[name]) for name in ("status", "code", "message")),
                (one["settled"] or "")[:19],
            ]
        )
    if len(rows) > 1:
        lines.append(text.table(rows))
    lines += [
        f"  on list {one['list'][:12]}, received {text.moment(one['received_at'])}{_given(one['given'])}: "
        f"{one['channels']}"
        for one in found["withdrawals"]
    ]
    return "\n".join(lines)


def to_forget(found: Mapping[str, Any]) -> str:
    """Return what an erasure would do, as lines."""
    lines = [
        f"{text.counted(found['clients'], 'client')} to be erased at {found['target']}: nothing is sent or changed yet",
        f"  known      {found['known']:>12,}: {found['withdrawn']:,} withdrew, {found['owed']:,} are owed a denial",
        f"  unknown    {found['unknown']:>12,}: denied and erased all the same",
    ]
    if found["asked_before"]:
        lines.append(f"  asked      {found['asked_before']:>12,} of the known wait for an erasure already")
    if found["erased_before"]:
        lines.append(
            f"  erased     {found['erased_before']:>12,} before, and not known since: nothing is sent for them"
        )
    lines.append(f"  to deny    {found['to_deny']:>12,}, in every channel, before they are erased")
    if found["must_be_confirmed"]:
        lines.append(f"  confirm    so many are erased with --expect {found['clients']}; it cannot be taken back")
    return "\n".join([*lines, *_out_of_reach(found)])


def _out_of_reach(found: Mapping[str, Any]) -> Iterator[str]:
    yield "  not reached, and yours to see to:"
    yield from (f"    {one}" for one in found["out_of_reach"])


def forgotten(found: Mapping[str, Any]) -> str:
    """Return who was erased, and what that cannot reach, as lines."""
    unknown = f", {found['unknown']:,} of whom nothing was known" if found["unknown"] else ""
    lines = [f"{text.counted(found['forgotten'], 'client')} erased at {found['target']}{unknown}"]
    if found["denied"]:
        lines.append(f"  {found['denied']:,} are denied every channel first")
    if found["erased_before"]:
        lines.append(
            f"  {found['erased_before']:,} were erased before and are not known since: nothing was sent for them"
        )
    if found["waiting"]:
        lines.append(f"  ! {found['waiting']:,} more are erased by the run or drain that delivers what is owed to them")
    return "\n".join([*lines, *_out_of_reach(found)])


def compared(found: Mapping[str, Any]) -> str:
    """Return how snapshot and dump differ, as lines."""
    lines = [
        f"{found['target']}: {found['clients']:,} clients known, {found['clients_of_the_dump']:,} in the dump; "
        f"{found['only_known']:,} only known, {found['only_in_the_dump']:,} only in the dump"
    ]
    for channel, matrix in found["channels"].items():
        same = sum(matrix[value][value] for value in matrix)
        differ = {
            f"known {was}, is {is_}": count
            for was, row in matrix.items()
            for is_, count in row.items()
            if was != is_ and count
        }
        lines.append(f"  {channel:<18} {same:>10,} alike" + "".join(f", {n:,} {name}" for name, n in differ.items()))
    if found["withdrawn_but_allowed"]:
        lines.append(
            f"  ! {found['withdrawn_but_allowed']:,} clients withdrew and are allowed on the platform: a denial is "
            f"owed, and goes with the next run or drain ({found['listed_in']})"
        )
    return "\n".join(lines)
