"""Words about the state folder itself: what is in it, where it went, and what has to be said of it next."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sync_job.report import text


def backup(found: Mapping[str, Any]) -> str:
    """Return what a backup has in it."""
    return (
        f"{found['backup']}: {found['bytes']:,} bytes, the state as of run {found['run']}, snapshot "
        f"{found['snapshot']}\n"
        f"The folder of keys ({found['keys']}) is not in it: back that up apart, to another place."
    )


def restored(found: Mapping[str, Any]) -> str:
    """Return what was put into place, and what has to be done next."""
    made = datetime.fromtimestamp(found["made"], UTC)
    lines = [
        f"{found['restored']}: the state of {made:%Y-%m-%d %H:%M} UTC, run {found['run']}, snapshot "
        f"{found['snapshot']}, {found['clients']:,} clients",
    ]
    if found["unfinished"]:
        lines.append(f"run {', '.join(found['unfinished'])} was under way; the next run finishes it")
    if found["lists_waiting"]:
        one = found["lists_waiting"] == 1
        lines.append(
            f"{text.counted(found['lists_waiting'], 'list')} {'was' if one else 'were'} in the inbox; the next run or "
            f"drain takes {'it' if one else 'them'} in"
        )
    if found["paused"]:
        lines.append(f"it was paused by {found['paused']['by']}: {found['paused']['reason']}; `resume` ends that")
    if found["standing"] == "foreign":
        lines.append(
            "The folder of keys knows another state of this target, and nothing is sent. If that one is lost for good, "
            "move its anchor away."
        )
    if found["standing"] == "moved":
        lines.append(
            f"The state has moved to {found['moved']} since, and nothing is sent before `consent-sync state retarget` "
            "binds this one to it as well."
        )
    if found["standing"] == "unknown":
        lines.append("Its anchor cannot be read, and nothing is sent: `consent-sync state check` says what to do.")
    if found["standing"] == "shrunken":
        lines.append(
            f"It lacks {found['lacking']:,} of the people who withdrew: nothing but lists is sent."
            + (" The lists of its inbox may be some of them." if found["lists_waiting"] else "")
        )
    none = "" if found["lacking"] else ", or --none if nobody did"
    lines.append(
        "Nobody is granted anything, and every denial is sent once more, until you say who withdrew since:\n"
        f"  consent-sync state restored --withdrawals-since LIST --by NAME{none}"
    )
    return "\n".join(lines)


def checked(found: Mapping[str, Any]) -> str:
    """Return a line for each thing, and what it comes to."""
    lines = [
        f"{one['verdict']:<8} {one['what']}" + (f": {one['words']}" if one["words"] else "") for one in found["things"]
    ]
    if found["running"]:
        lines.append(f"{found['running']}: what it may be writing was not judged")
    lines.append(", ".join(f"{count} {verdict}" for verdict, count in found["counts"].items() if count))
    if times := found["from_the_future"]:
        lines += [f"future   {said}" for said in _times(times)]
        lines.append(
            "A clock was wrong. If this machine's is right now, `consent-sync state repair` brings them to now."
        )
    lines += _next(found["counts"])
    lines += [found["mend"]] if found["mend"] else []
    return "\n".join(lines)


def repaired(found: Mapping[str, Any]) -> str:
    """Return what was removed and mended, and what is left."""
    lines = ["ledger.db is of today's version now"] if found["migrated"] else []
    lines += [f"removed  {one['what']}: {one['words']}" for one in found["removed"]]
    lines += [f"to now   {said}" for said in _times(found["brought_to_now"])]
    lines += [f"mended   {one['what']}: {one['words']}" for one in found["mended"]]
    lines += [f"{one['verdict']:<8} {one['what']}: {one['words']}" for one in found["left"]]
    lines += [found["mend"]] if found["mend"] else []
    if not lines:
        lines.append("nothing to repair")
    return "\n".join(lines)


_FUTURE = {
    "about.lingering_until": "the end of a time in which everyone lingers",
    "lingering.until": "clients who linger",
    "obligations.started": "obligations",
    "waiting.since": "refused rows that wait for their next try",
    "keys.anchor": "the anchor",
    "keys.backup": "the note of the last backup",
    "keys.tombstones": "codes of erased clients",
    "keys.withdrawn": "codes of people who withdrew",
    "state.paused": "the pause",
}


def _times(found: Mapping[str, int]) -> list[str]:
    """Return each kind of time from the future with its count."""
    return [f"{_FUTURE.get(kind, f'times in {kind}')}: {count:,}" for kind, count in found.items()]


def _next(counts: Mapping[str, int]) -> list[str]:
    lines = []
    if counts["damaged"]:
        lines.append("Damage: keep the folder as it is. The lines above say what to do.")
    if counts["orphan"] or counts["mode"]:
        lines.append("`consent-sync state repair` removes orphans and mends modes.")
    return lines


def retargeted(found: Mapping[str, Any]) -> str:
    """Return which target the state has now, and what to do next."""
    lines = [f"the state of {found['was']} is now that of {found['target']}"]
    if found["mend"]:
        lines.append(
            f'Now set [endpoint] base_url = "{found["base_url"]}" in every configuration of this state; until then '
            "runs end in 4."
        )
    return "\n".join(lines)


def purged(found: Mapping[str, Any]) -> str:
    """Return what was removed."""
    if not found["reports"]:
        return f"nothing is older than {found['keep_days']} days"
    return f"{found['files']} files of {found['reports']} reports removed, {found['bytes']:,} bytes; summaries stay"


def carried(found: Mapping[str, Any]) -> str:
    """Return what a new state has of an old one, or would have, in words."""
    would = "would have" if found["checked"] else "has"
    lines = [
        f"{found['state']} ({found['target']}) {would} {found['clients']:,} clients of {found['from']}: of "
        f"{found['known']:,} that are known there, {found['unlisted']:,} are not in the map"
    ]
    if found["unknown"]:
        lines.append(f"  {found['unknown']:,} ids of the map are not known there")
    if found["merged"]:
        lines.append(f"  {found['merged']:,} are several in one: what was denied to any of them is denied again")
    if found["to_be_erased"]:
        lines.append(f"  {found['to_be_erased']:,} of them are to be erased, because one of them was or is to be")
    if found["tombstones"]:
        lines.append(f"  {found['tombstones']:,} erased clients are known under their new ids")
    if found["tombstones_left"]:
        lines.append(
            f"  {found['tombstones_left']:,} erased clients are not in the map: nobody knows them by a new id, and an "
            "export that names them brings them back"
        )
    if found["dropped"]:
        lines.append(f"  {found['dropped']:,} people who withdrew, or whose number another has now, are left behind")
    if found["checked"]:
        lines.append(f"  nothing was changed; --expect {found['clients']} makes it")
    else:
        lines.append(f"  {found['from']} is given up: commands by its configuration end in 4")
    return "\n".join(lines)
