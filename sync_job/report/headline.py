"""Whether a run is fine, is to be looked at, or needs somebody to act: in one sentence, and with what to do next.

Pure functions of summaries. What the counts are made of is `content`'s to show.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sync_job.errors import Exit
from sync_job.report.counts import Summary
from sync_job.report.words import Words

State = Literal["fine", "look", "act"]
DRAINS = ("drain", "opt-out", "forget")  # kinds of runs that send what is owed and open no export
_FINE = frozenset({Exit.OK})
# A run that was busy or was ended from outside needs nobody at once: the next one carries on.
_LOOK = frozenset({Exit.ATTENTION, Exit.HELD, Exit.BUSY, Exit.INTERRUPTED, Exit.TERMINATED})
_SAY_WHO = ' --reason "…" --by "…"'
_NOT_FOUND = ("not found", "not exist", "unknown c", "no such", "не найден", "не существует", "отсутствует")


@dataclass(frozen=True)
class Step:
    """What to do next; *command* is what to type or, for a setting, the line to write; "" where there is none."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Headline:
    """What is on top of a report: the state, one sentence, and the next steps in their order."""

    state: State
    sentence: str
    steps: tuple[Step, ...]


def read(found: Summary, earlier: Sequence[Summary], words: Words, config: str = "") -> Headline:
    """Return the headline of a run.

    *earlier* are summaries of runs before it, the newest last; *config* is the file that commands name, `FILE` where
    it is not known.
    """
    steps = tuple(_steps(found, words, config))
    if not steps and state(found) != "fine":
        steps = (Step(words("do_read")),)
    return Headline(state(found), sentence(found, earlier, words), steps)


def state(found: Summary) -> State:
    """Return whether anybody has to look or to act; by the exit code alone, so that alarms say the same."""
    code = found["exit"]
    return "fine" if code in _FINE else "look" if code in _LOOK else "act"


def sentence(found: Summary, earlier: Sequence[Summary], words: Words) -> str:
    """Return what happened in one sentence."""
    said = "; ".join(_clauses(found, earlier, words))
    return f"{said[:1].upper()}{said[1:]}."


def same_since(found: Summary, earlier: Sequence[Summary]) -> float | None:
    """Return when the first of the runs in a row that read this very export began; none where it was this one."""
    export = found.get("export")
    if not export or not export.get("digest"):
        return None
    since = None
    for one in reversed(earlier):
        before = one.get("export")
        if not before:
            continue  # A drain opens no export.
        if before.get("digest") != export["digest"]:
            break
        since = float(one["started"])
    return since


def looks_not_found(found: Summary) -> list[int]:
    """Return the ErrorCodes whose Message says that there is no such client, where the settings name none as such."""
    settings: Mapping[str, Any] = found.get("settings") or {}
    if "endpoint" not in settings or settings["endpoint"].get("not_found_codes"):
        return []
    return sorted(
        {
            int(one["code"])
            for one in found["codes"]
            if one["outcome"] == "refused"
            and one["code"] is not None
            and any(words in str(one["message"]).casefold() for words in _NOT_FOUND)
        }
    )


def _clauses(found: Summary, earlier: Sequence[Summary], words: Words) -> Iterator[str]:
    """Yield the parts of the sentence, what matters most first."""
    ended, kind = found["outcomes"], found["kind"]
    yield from _stopped(found, words)
    if made := found.get("made"):
        yield words("said_made", n=made["clients"])
        yield words("said_made_due", denials=made["denials_due"], grants=made["grants_due"])
    elif not found["planned"]:
        yield from _nothing_sent(found, earlier, words)
    elif kind in (*DRAINS, "undo", "backfill"):
        yield words(f"said_{kind.replace('-', '_')}", n=ended["delivered"], of=found["planned"])
    else:
        yield words("said_delivered", n=ended["delivered"], of=found["planned"])
    for name in ("refused", "exhausted", "deferred"):
        if ended[name]:
            yield words(f"said_{name}", n=ended[name])
    yield from _left(found, words)
    owed = found.get("withdrawals") or {}
    if owed.get("past_limit"):
        yield words("said_past_limit", n=owed["past_limit"])
    elif owed.get("open"):
        yield words("said_open", n=owed["open"])
    at = owed.get("last_acknowledged")
    if at is not None and at >= found["started"] - 86400:
        if words.date(at) == words.date(found["ended"]):
            yield words("said_acknowledged", at=words.clock(at))
        else:
            yield words("said_acknowledged_on", date=words.date(at), at=words.clock(at))


def _stopped(found: Summary, words: Words) -> Iterator[str]:
    """Yield why the run did not come to its end; nothing where it did."""
    if said := words.named("stopped", f"{found['exit']}{' same' if _unchanged_export(found) else ''}", ""):
        yield said


def _unchanged_export(found: Summary) -> bool:
    """Return whether the export could be used, and was refused for being the one of last time."""
    return found["exit"] == Exit.EXPORT and bool(found.get("decided"))


def _nothing_sent(found: Summary, earlier: Sequence[Summary], words: Words) -> Iterator[str]:
    """Yield that no change was to be sent, and why not."""
    decisions = found.get("decided")
    if not found.get("export") or not decisions:
        yield words("said_nothing_sent")
        return
    idle = sum(decisions[name] for name in ("unchanged", "blocked", "forgotten")) == decisions["stated"]
    yield words("said_nothing_changed" if idle else "said_nothing_sent")
    if (since := same_since(found, earlier)) is not None:
        yield words("said_same_since", at=words.time(since))


def _left(found: Summary, words: Words) -> Iterator[str]:
    """Yield what of an export was not to be sent: what nobody could read, what waits for a person, and what is held."""
    if rejects := (found.get("export") or {}).get("rejects"):
        yield words("said_rejects", n=rejects)
    approvable = found.get("approvable") or {}
    asks = [name for name in ("grants", "revocations") if approvable.get(name)]
    for name in asks:
        yield words(f"said_held_{name}", n=approvable[name])
    decisions = found.get("decided")
    if asks:
        return
    if decisions and decisions["held"]:
        yield words("said_held", n=decisions["held"])
    elif found["exit"] == Exit.HELD:
        yield words("said_no_grants")


def _steps(found: Summary, words: Words, config: str) -> Iterator[Step]:
    """Yield what to do, the most urgent first; nothing where there is nothing to do."""
    where = f" --config {shlex.quote(config) if config else 'FILE'}"
    yield from _by_exit(found, words, where)
    owed = found.get("withdrawals") or {}
    if owed.get("past_limit"):
        yield Step(words("do_past_limit"), f"consent-sync withdrawals status{where}")
        yield Step(words("do_drain"), f"consent-sync drain{where}")
    elif owed.get("past_target"):
        yield Step(words("do_past_target", n=owed["past_target"]), f"consent-sync drain{where}")
    yield from _held(found, words, where)
    for code in looks_not_found(found):
        yield Step(words("do_not_found", code=str(code)), f"not_found_codes = [{code}]")
    if found["exit"] in _FINE:
        return
    if any(one["outcome"] == "refused" and one.get("since", "new") == "new" for one in found["codes"]):
        yield Step(words("do_refused"), f"consent-sync run --retry-refused{where}")
    if (found.get("export") or {}).get("rejects"):
        yield Step(words("do_rejects"), f"consent-sync check{where}")
    if found["kind"] == "backfill" and found["outcomes"]["deferred"]:
        yield Step(words("do_backfill"), f"consent-sync run{where}")
        yield Step(words("do_backfill_cancel"), f"consent-sync backfill --cancel{where}")
    elif found["outcomes"]["exhausted"] + found["outcomes"]["deferred"] and state(found) == "look":
        again = "drain" if found["kind"] in DRAINS else "run"
        if again == "run" and found.get("grants_unsent"):
            yield Step(words("do_delta_again", n=found["grants_unsent"]), f"consent-sync run FILE{where}")
        else:
            yield Step(words("do_carries_on"), f"consent-sync {again}{where}")
    if found.get("made"):
        yield Step(words("do_made"), f"consent-sync run{where}")


def _by_exit(found: Summary, words: Words, where: str) -> Iterator[Step]:
    """Yield what the exit code asks for that the counts do not show."""
    again = f"consent-sync {'drain' if found['kind'] in DRAINS else 'run'}{where}"
    commands = {
        Exit.BUG: again,
        Exit.CONFIG: again,
        Exit.STATE: f"consent-sync doctor{where}",
        Exit.EXPORT: f"consent-sync check{where}",
        Exit.ENDPOINT: f"consent-sync doctor{where}",
        Exit.BUSY: f"consent-sync status{where}",
    }
    code = Exit(found["exit"])
    if _unchanged_export(found):
        yield Step(words("do_3_same"))
    elif code in commands:
        yield Step(words(f"do_{int(code)}"), commands[code])
    if code in (Exit.ENDPOINT, Exit.EXPORT):
        yield Step(words("do_then"), again)


def _held(found: Summary, words: Words, where: str) -> Iterator[Step]:
    """Yield how to let through what was held, or what has to be mended instead."""
    doubts = {one["doubt"] for one in found.get("doubts") or ()}
    guards = {one["guard"] for one in found.get("guards") or ()}
    for doubt in sorted(doubts):
        if text := words.named("do_doubt", doubt, ""):
            command = f'consent-sync state restored --withdrawals-since LIST --by "…"{where}'
            yield Step(text, command if doubt == "restored state" else "")
    if {"changed clients", "unknown ids"} & guards:
        yield Step(words("do_renumbered"), f"consent-sync init --from OLD_STATE --id-map MAP{where}")
    if "lost consents" in guards:
        yield Step(words("do_lost"), f"consent-sync check{where}")
    approvable = found.get("approvable") or {}
    if (
        found["exit"] == Exit.HELD
        and not doubts
        and not any(approvable.values())
        and (found.get("decided") or {}).get("held")
    ):
        yield Step(words("do_held"))
    run = str(found["run"]).split("-")[0].lstrip("0") or "RUN"
    for what, count in approvable.items():
        if count:
            approve = f"consent-sync approve {run} --{what} {count}{_SAY_WHO}{where}"
            yield Step(words(f"do_approve_{what}", n=count), approve)
