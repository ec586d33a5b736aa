"""What a notification says: the JSON of a webhook, the text of a chat, the lines of a ping; and whether one is due.

Pure functions of a run's summary, or of the error that ended it before it had one. Nothing in them names a client.
Sending them is left to `runs.notifying`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sync_job.errors import Exit, gravest
from sync_job.report import headline
from sync_job.report.counts import OUTCOMES, Summary
from sync_job.report.headline import DRAINS, State
from sync_job.report.words import Words

SCHEMA = 1
When = Literal["change", "always", "trouble"]
_MOST_REASONS = 20
_LONGEST_REASON = 600
_MARKS: Mapping[State, str] = {"fine": ":white_check_mark:", "look": ":eyes:", "act": ":rotating_light:"}


def ended(
    kind: str, target: str, started: float, now: float, *, summary: Summary | None, code: Exit = Exit.OK, why: str = ""
) -> Summary:
    """Return what a notification of a run is made of: its *summary*, and the error that ended it, if one did.

    Without a summary it is one that counts nothing: the run ended before it could.
    """
    if summary is None:
        nothing = {outcome.name.lower(): 0 for outcome in OUTCOMES}
        found: Summary = {"kind": kind, "run": "", "target": target, "started": started, "ended": now, "exit": 0}
        found |= {"reasons": [], "outcomes": nothing, "planned": 0, "codes": [], "legs": [], "folder": None}
    else:
        found = dict(summary)
    said = [] if not why or why in found["reasons"] else [why]
    return found | {"exit": int(gravest({Exit(found["exit"]), code})), "reasons": [*said, *found["reasons"]]}


def message(
    found: Summary, earlier: Sequence[Summary], words: Words, *, before: State | None = None, config: str = ""
) -> Summary:
    """Return the JSON of a webhook; *before* is the state that was told last, and none where none was."""
    top = headline.read(found, earlier, words, config)
    return {
        "schema": SCHEMA,
        "event": "ended",
        "kind": found["kind"],
        "run": found["run"] or None,
        "target": found["target"],
        "exit": found["exit"],
        "state": top.state,
        "before": before,
        "headline": top.sentence,
        "reasons": [_short(reason) for reason in found["reasons"][:_MOST_REASONS]],
        "next": [{"text": step.text, "command": step.command} for step in top.steps],
        "counts": _counts(found) if found["run"] else None,
        "started": found["started"],
        "ended": found["ended"],
        "folder": found["folder"],
    }


def trial(target: str, now: float) -> Summary:
    """Return the JSON of a webhook that somebody tries."""
    return {
        "schema": SCHEMA,
        "event": "test",
        "kind": "test",
        "run": None,
        "target": target,
        "exit": 0,
        "state": "fine",
        "before": None,
        "headline": "This is a test: notifications of consent-sync arrive here.",
        "reasons": [],
        "next": [],
        "counts": None,
        "started": now,
        "ended": now,
        "folder": None,
    }


def slack(said: Summary) -> Summary:
    """Return the same for a chat that takes Slack's messages."""
    what = f"{said['kind']} {said['run']}" if said["run"] else said["kind"]
    lines = [f"{_MARKS[said['state']]} *{_plain(what)}* of {_plain(said['target'])}: {_plain(said['headline'])}"]
    lines += [f"• {_plain(reason)}" for reason in said["reasons"]]
    for step in said["next"]:
        lines.append(f"→ {_plain(step['text'])}" + (f"\n`{_plain(step['command'])}`" if step["command"] else ""))
    lines += [f"Exit {said['exit']}. Report: {_plain(said['folder'])}"] if said["folder"] else []
    return {"text": "\n".join(lines)}


def lines(said: Summary) -> str:
    """Return the same in a few lines, for the log of a ping."""
    first = f"{said['kind']} {said['run'] or ''}".strip()
    found = [f"{first}: exit {said['exit']}", said["headline"], *said["reasons"]]
    return "\n".join([*found, *(f"{step['text']} {step['command']}".strip() for step in said["next"])]) + "\n"


def is_due(when: When, kind: str, state: State, before: State | None) -> bool:
    """Return whether a webhook is to be told; where nothing was told before, fine is what everybody takes for granted.

    What runs every quarter of an hour speaks on a change alone, whatever *when* says.
    """
    if when == "change" or kind in DRAINS:
        return state != (before or "fine")
    return when == "always" or state != "fine"


def ping(code: int, attention: Literal["success", "fail"]) -> str | None:
    """Return what an exit code appends to the address of a ping; none where there is nothing to say.

    Busy is neither: no run was begun. The run that held the lock speaks for itself, and a night that was missed shows
    by the success that stays away.
    """
    if code == Exit.BUSY:
        return None
    if code == Exit.OK or (code == Exit.ATTENTION and attention == "success"):
        return ""
    return "/fail"


def _counts(found: Summary) -> Summary:
    export, decided, owed = found.get("export") or {}, found.get("decided") or {}, found.get("withdrawals") or {}
    outcomes: Mapping[str, Any] = found["outcomes"]
    return {
        "planned": found["planned"],
        **outcomes,
        "rejects": export.get("rejects", 0),
        "held": decided.get("held", 0),
        "blocked": decided.get("blocked", 0),
        "obligations_open": owed.get("open", 0),
        "obligations_past_limit": owed.get("past_limit", 0),
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"


def _plain(text: str) -> str:
    """Return *text* so that a chat takes no part of it for a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def answers(found: Sequence[Summary]) -> str:
    """Return what came back for a test, a line each."""
    lines_ = []
    for one in found:
        first = one["answer"].strip().partition("\n")[0][:100]
        said = one["why"] or f"HTTP {one['status']}" + (f", {first!r}" if first else "")
        lines_.append(f"{one['what']:<9}{one['where']}  {said}")
    return "\n".join(lines_)
