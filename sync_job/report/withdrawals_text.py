"""Words for withdrawals: lists, what became of them, what is owed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sync_job.consent.lists import scope_text
from sync_job.report import text

_SHOWN = 5


def checked(found: Mapping[str, Any]) -> str:
    """Return what a list would do, as lines."""
    share = "" if found["share"] is None else f" ({found['share']:.2%} of those known)"
    lines = [
        f"list {found['list'][:12]} for {found['target']}: nothing was taken in",
        f"  rows       {found['rows']:>12,}, {found['rejected']:,} of them cannot be taken",
        f"  clients    {found['clients']:>12,}{share}: {found['known']:,} known, {found['unknown']:,} unknown, "
        f"{found['withdrawn_already']:,} withdrew before",
    ]
    lines += [f"    {count:>8,} {reason}" for reason, count in list(found["reasons"].items())[:10]]
    lines += _erased(found)
    if found["must_be_confirmed"]:
        lines.append(f"  confirm    a list of this size is taken in with --expect {found['clients']}")
    return "\n".join(lines)


def _erased(found: Mapping[str, Any]) -> Iterator[str]:
    if count := found["erased"]:
        rows = "1 row names a person who was" if count == 1 else f"{count:,} rows name people who were"
        yield f"  erased     {rows} erased since; not taken in"


def taken(found: Mapping[str, Any]) -> str:
    """Return what became of a list, as lines."""
    return "\n".join(_taken(found))


def _taken(found: Mapping[str, Any]) -> Iterator[str]:
    if found["clients"]:
        yield f"list {found['list'][:12]} is taken in for {found['target']}: {text.counted(found['clients'], 'client')}"
    else:
        yield f"no row of the list is taken in for {found['target']}"
    if found["rejected"]:
        yield f"  ! {found['rejected']:,} rows could not be taken; mend and send them again as a list of their own"
        yield from _rejects(found)
    yield from _erased(found)
    yield from _sent(found)


def _rejects(found: Mapping[str, Any]) -> Iterator[str]:
    for reject in found["rejects"][:_SHOWN]:
        yield f"    line {reject['line']}: {reject['why']}: {reject['raw']}"
    if found["rejected"] > _SHOWN:
        yield f"    … and {found['rejected'] - _SHOWN:,} more; --json lists them"


def drained(found: Mapping[str, Any]) -> str:
    """Return what a drain did, as lines."""
    return "\n".join([f"drain of {found['target']}", *_sent(found)])


def _sent(found: Mapping[str, Any]) -> Iterator[str]:
    if said := found.get("error") or found["busy"]:
        yield f"  not sent   {said}"
    for reason in found.get("reasons_of_run", []):
        yield f"  ! {reason}"
    if sent := found.get("sent"):
        yield (
            f"  list       {sent['fresh']:>12,} new, {sent['repeats']:,} repeats, {sent['superseded']:,} lifted by "
            "later evidence"
        )
        stands = "sent      " if found["run"] or (sent["fresh"] and not said) else "stands at "
        yield (
            f"  {stands} {sent['acknowledged']:>12,} acknowledged, {sent['open']:,} to be tried again, "
            f"{sent['refused']:,} refused, {sent['parked']:,} not known to the platform"
        )
        if sent["ended_otherwise"]:
            yield f"  and        {', '.join(_ended(sent['ended_otherwise']))}"
        if sent["elsewhere"]:
            whole = sent["elsewhere"] == sent["rows"] - sent["ended_otherwise"].get("twice", 0)
            how_many = "all" if whole else f"{sent['elsewhere']:,}"
            yield f"  by another list acknowledged: {how_many} of its rows"
        if not found["run"] and not said:
            yield "  this command sent nothing: nothing of the list is to be sent now"
    elif outcomes := found.get("outcomes"):
        yield f"  sent       {sum(outcomes.values()):>12,} clients: {text.named(outcomes, *outcomes)}"
    elif not said and found["run"] is None:
        yield "  nothing was sent"
    if found["run"]:
        yield f"  run        {found['run']}"


_ENDED = {
    "by hand": "closed by hand",
    "lifted": "lifted by evidence",
    "superseded": "lifted by evidence before they came in",
    "void": "of a void list",
    "erased": "of erased clients",
    "twice": "in the list twice",
}


def _ended(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield how many withdrawals ended otherwise than acknowledged, and how."""
    return (f"{count:,} {_ENDED.get(how, how)}" for how, count in counts.items())


def reconsented(found: Mapping[str, Any]) -> str:
    """Return what evidence has lifted, as lines."""
    lines = [
        f"evidence for {found['target']}: {found['lifted']:,} of {found['rows']:,} rows lift a withdrawal; the next "
        "export that says allowed may grant again",
    ]
    if found["lifted_before"]:
        lines.append(f"  {found['lifted_before']:,} rows have lifted it before, and change nothing")
    if found["rejected"]:
        lines += [f"  ! {found['rejected']:,} rows are no evidence that can be read", *_rejects(found)]
    lines += _erased(found)
    lines += [f"    client {one['client']}: {one['rule']}" for one in found["refused"][:50]]
    if len(found["refused"]) > 50:
        lines.append(f"    … and {len(found['refused']) - 50:,} more; --json lists all")
    return "\n".join(lines)


def status(found: Mapping[str, Any]) -> str:
    """Return what is owed, as lines."""
    return "\n".join(_status(found))


def ages(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how many are owed for how long, but for none."""
    after = 0
    for one in found:
        upto = one["upto_h"]
        if one["open"]:
            yield f"{one['open']:,} " + (
                f"over {after} h" if not upto else f"{after} to {upto} h" if after else f"under {upto} h"
            )
        after = upto


def past_limit(found: Mapping[str, Any]) -> str:
    """Return how many denials are past their limit, since when the oldest is owed, and what to do next."""
    one = found["past_limit"] == 1
    since = text.moment(found["oldest_past_limit"])
    return (
        f"{text.counted(found['past_limit'], 'client')} {'is' if one else 'are'} owed a denial that is past its limit "
        f"and not acknowledged, {'since' if one else 'the oldest since'} {since}: "
        f"`consent-sync withdrawals status` lists {'it' if one else 'them'}"
    )


def _status(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"owed at {found['target']}: {text.counted(found['open'], 'client')}, {found['parked']:,} more are parked"
    if found["lists_waiting"]:
        waiting = text.counted(found["lists_waiting"], "list")
        clients = text.counted(found["clients_waiting"], "client")
        yield f"  ! {waiting} in the inbox, with {clients} of these: the next run or drain takes it in"
    if found["restored"]:
        yield f"  ! {text.RESTORED}"
    if found["ambiguous"]:
        yield f"  ! {text.ambiguous(found['ambiguous'])}"
    if found["past_limit"]:
        yield f"  ! {found['past_limit']:,} are past their limit"
    if found["open"]:
        yield f"  age        {', '.join(ages(found['ages']))}"
        yield f"  because of {text.named(found['by_source'], *found['by_source'])}"
    rows = [["Client", "channels", "since", "limit", "because of", "tries", "next try", "reference"]]
    for one in found["oldest"]:
        next_try = "parked" if one["parked"] and one["next_at"] is None else text.moment(one["next_at"] or 0)
        rows.append(
            [
                str(one["client"]),
                scope_text(one["channels"]),
                text.moment(one["started"]),
                text.moment(one["limit_at"]),
                one["source"],
                str(one["tries"]),
                ("parked, " if one["parked"] else "") + (next_try if one["next_at"] else "next run"),
                one["request_ref"],
            ]
        )
    if len(rows) > 1:
        yield text.table(rows)
    if found["lists"]:
        yield "lists taken in last"
        yield text.table(
            [["list", "file", "taken in", "new", "repeats", "void"]]
            + [
                [
                    one["digest"][:12],
                    one["source"],
                    text.moment(one["taken_in"]),
                    f"{one['fresh']:,}",
                    f"{one['repeats']:,}",
                    text.moment(one["voided"]) if one["voided"] else "",
                ]
                for one in found["lists"]
            ]
        )


def report(found: Mapping[str, Any]) -> str:
    """Return what came in and what was acknowledged, as lines."""
    after = {name: seconds for name, seconds in found["after_s"].items() if seconds is not None}
    lines = [
        f"withdrawals at {found['target']} from {text.moment(found['from'])} to {text.moment(found['to'])}",
        f"  received      {found['received']:>12,}",
        f"  acknowledged  {found['acknowledged']:>12,}, {found['late']:,} of them late"
        + (f"; after {', '.join(f'{name} {text.span(seconds)}' for name, seconds in after.items())}" if after else ""),
    ]
    lines.append(f"  open          {found['open']:>12,}, and {found['parked']:,} parked")
    ended = ", ".join(_ended(found["ended_otherwise"]))
    lines.append(f"  otherwise     {sum(found['ended_otherwise'].values()):>12,}{f': {ended}' if ended else ''}")
    if found["lists_waiting"]:
        clients = text.counted(found["clients_waiting"], "client")
        lines.append(f"  and in the inbox, not counted: {text.counted(found['lists_waiting'], 'list')}, {clients}")
    if (others := found["others"])["owed"]:
        more = "".join(f", {one}" for one in _ended(others["ended_otherwise"]))
        lines.append(
            f"  owed for another reason than a list {others['owed']:,}: {others['acknowledged']:,} acknowledged, "
            f"{others['open']:,} open, {others['parked']:,} parked{more}"
        )
    if found["erasures"]:
        clients = sum(one["clients"] for one in found["erasures"])
        requests = text.counted(len(found["erasures"]), "request")
        lines.append(f"  to erase      {clients:>12,}: {text.counted(clients, 'client')} in {requests}")
    lines.append(
        f"  withdrawn, and allowed on the platform as far as we know: {found['withdrawn_and_allowed']:,} (must be 0)"
    )
    if found["found_by_compare"]:
        lines.append(f"  and {found['found_by_compare']:,} whom a dump showed as allowed, whose denial is owed")
    if found["withdrawn_and_owed"]:
        lines.append(f"  and {found['withdrawn_and_owed']:,} whose denial is owed and not acknowledged yet")
    return "\n".join(lines)


def closed(found: Mapping[str, Any]) -> str:
    """Return what was closed by hand, in words."""
    count, one = text.counted(found["closed"], "obligation"), found["closed"] == 1
    stays = "the withdrawal stays in force" if found["withdrawn"] else "no withdrawal of the client is in force"
    since = f" before, at {text.moment(found['since'])}" if found["since"] else ""
    return f"{count} at {found['target']} {'was' if one else 'were'} closed by hand{since}; {stays}"


def voided(found: Mapping[str, Any]) -> str:
    """Return what a void list took with it, in words."""
    if found["since"]:
        return f"the list is void at {found['target']} since {text.moment(found['since'])}; nothing was changed"
    return (
        f"the list is void at {found['target']}: {found['withdrawals']:,} withdrawals bind no more, "
        f"{found['obligations']:,} denials are owed no more, {found['kept']:,} stay by another list. What was denied "
        "already stays denied until an export allows it, and the guards look at that."
    )
