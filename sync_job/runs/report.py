"""What a run says of itself: the report object, its summary, and the report's files from plans and journals."""

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import Ids, allowed
from sync_job.consent.fold import Outcome
from sync_job.delivery.round_trips import BOUNDS_S
from sync_job.errors import Exit, gravest
from sync_job.exports import naming
from sync_job.ledger import files, tables
from sync_job.ledger.journal import Part, Reading
from sync_job.ledger.state import Leg, State
from sync_job.report import counts, results
from sync_job.report.counts import Summary
from sync_job.runs import owing, samples
from sync_job.runs.delivered import Delivery


@dataclass
class Report:
    """What a run did: *summary* has all counts and is what `summary.json` and `--json` show."""

    summary: Summary
    folder: Path

    @property
    def exit_code(self) -> Exit:
        """The exit code that the run ends with."""
        return Exit(self.summary["exit"])


class Stopwatch:
    """Seconds per stage of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Say that everything since the last lap was *name*."""
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._since, 3)
        self._since = now


@dataclass
class Findings:
    """What a run has found out about itself so far; the summary is made of it."""

    kind: str
    run: str
    started: float
    restrict_only: str = ""
    made: Summary | None = None
    export: Summary | None = None
    decided: Summary | None = None
    changes: Summary = field(default_factory=dict)
    doubts: list[Summary] = field(default_factory=list)
    guards: list[Summary] = field(default_factory=list)
    grants: Summary | None = None
    approvals: list[Summary] = field(default_factory=list)
    approvable: Summary = field(default_factory=dict)
    codes: set[Exit] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    said: list[tuple[Exit, str]] = field(default_factory=list)
    reject_keys: list[tuple[str, str]] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    hopeless: list[str] = field(default_factory=list)  # why legs stopped that had no good answer

    def add(self, code: Exit, reason: str) -> None:
        """Note a reason that the run did not end well."""
        self.codes.add(code)
        self.reasons.append(reason)
        self.said.append((code, reason))

    def add_once(self, code: Exit, reason: str) -> None:
        """Note a reason, unless it is noted already."""
        if (code, reason) not in self.said:
            self.add(code, reason)

    def judge_endpoint(self) -> None:
        """Note that the endpoint gave no good answer, if no leg of the run had one; otherwise it was the rows."""
        if self.hopeless and not any(one.good for one in self.deliveries):
            self.add(Exit.ENDPOINT, self.hopeless[-1])

    def kept(self) -> Summary:
        """Return what is written with the plan, so that the report of a run that died can be made from it."""
        kept = (
            "export",
            "decided",
            "changes",
            "restrict_only",
            "doubts",
            "guards",
            "grants",
            "approvals",
            "approvable",
        )
        held = [reason for code, reason in self.said if code is Exit.HELD]
        return {name: getattr(self, name) for name in kept} | {"held": held}

    def take(self, kept: Mapping[str, Any]) -> None:
        """Take what was kept with the plan of a run that died, or was made before."""
        for name in self.kept():
            if name != "held":
                setattr(self, name, kept.get(name) or getattr(self, name))
        for reason in kept.get("held") or ():
            if reason not in self.reasons:
                self.add(Exit.HELD, reason)


def folder_of(settings: Settings, run: str) -> Path:
    """Return the folder of a run's report."""
    return settings.report.path / run


def write(
    state: State, settings: Settings, findings: Findings, watch: Stopwatch, ended: float, folder: Path | None = None
) -> Report:
    """Write the results of all legs and the summary, note the run as reported, and remove plan and journal.

    They go to *folder*, by default the run's own.
    """
    made, undone = compose(state, settings, findings, watch, ended, folder)
    note(state, made, undone)
    return made


def compose(
    state: State, settings: Settings, findings: Findings, watch: Stopwatch, ended: float, folder: Path | None = None
) -> tuple[Report, list[tuple[str, str]]]:
    """Write the results of all legs and the summary, which needs no lock; return them, and what the run did not do."""
    folder = folder or folder_of(settings, findings.run)
    files.make_folder(folder)
    legs: list[Summary] = []
    codes: list[Summary] = []
    undone: list[tuple[str, str]] = []
    sent = _Sent()
    grants_unsent = 0
    with results.writing(folder, settings.report.results) as out:
        found = state.legs(findings.run)
        later = _later(found)
        for leg in found:
            ended_so, leg_codes, leg_sent, leg_grants = _write_leg(leg, out, undone, later.get(leg.number))
            legs.append({"leg": leg.number} | ended_so)
            codes += leg_codes
            grants_unsent += leg_grants
            sent = sent.joined(leg_sent)
    planned = [{name: count for name, count in leg.items() if name != "leg"} for leg in legs]
    outcomes = counts.added(planned)
    last_delta = state.ledger.applied.last_delta()  # what it grants and was not sent is in no later one
    findings.judge_endpoint()
    _judge_undone(state, settings, findings, undone, outcomes)
    owed = settings.withdrawals
    withdrawals = owing.figures(state, settings)
    withdrawals |= {"target_h": owed.target_h, "limit_h": None if owed.profile else owed.limit_h}
    said, gone = counts.held_against(counts.by_message(codes), _said_before(state, findings))
    if late := owing.reason(withdrawals):
        findings.add(Exit.OBLIGATION, late)
    watch.lap("report")
    summary: Summary = {
        "kind": findings.kind,
        "run": findings.run,
        "target": settings.endpoint.target,
        "started": findings.started,
        "ended": ended,
        "exit": int(gravest(findings.codes)),
        "reasons": findings.reasons,
        "restrict_only": findings.restrict_only,
        "doubts": findings.doubts,
        "guards": findings.guards,
        "approvals": findings.approvals,
        "approvable": findings.approvable,
        "grants": findings.grants,
        "withdrawals": withdrawals,
        "made": findings.made,
        "as_of": settings.export.as_of,
        "export": findings.export,
        "decided": findings.decided,
        **findings.changes,
        "planned": sum(outcomes.values()),
        "outcomes": outcomes,
        "grants_unsent": grants_unsent if last_delta and last_delta[0] == findings.run else 0,
        "legs": legs,
        "delivery": _added(findings.deliveries),
        "samples": [
            {"s": round(one.at - findings.started, 1)} | {k: v for k, v in one._asdict().items() if k != "at"}
            for one in samples.joined((one.samples, one.settled) for one in findings.deliveries)
        ],
        "round_trips": _round_trips(findings.deliveries),
        "requests": sent.requests,
        "retries": sent.retries,
        "requests_per_s": round(sent.requests / sent.span_s, 1) if sent.span_s > 0 else 0.0,
        "codes": said,
        "gone": gone,
        "seconds": watch.seconds,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "folder": str(folder.absolute()),
        "page": str(folder.absolute() / "report.html") if settings.report.page else None,
        "config": settings.file,
        "settings": _shown(settings.model_dump(mode="json")),
        "version": version("consent-sync"),
    }
    counts.check(summary)
    files.replace_json(folder / "summary.json", summary)
    waiting = state.ledger.obligations.waiting().client[:_UNDONE_KEPT].tolist()
    if findings.export is None:
        # It read no export: the next one is held against the last that was read.
        findings.reject_keys = [key for key in state.ledger.undone() if key[0] == "reject"]
    known = [*findings.reject_keys, *undone, *(("refused", str(client)) for client in waiting)]
    return Report(summary, folder), known


def note(state: State, made: Report, undone: list[tuple[str, str]]) -> None:
    """Note a run as reported, with what it did *undone*, for the next one to know it again; remove plan and journal."""
    run = str(made.summary["run"])
    state.ledger.report(run, made.summary["exit"], made.summary, undone)
    state.remove_run(run)


def _later(legs: list[Leg]) -> dict[int, Ids]:
    """Return, for each leg but the last, the clients that a later one planned again: they count by their last."""
    found: dict[int, Ids] = {}
    seen: Ids | None = None
    for leg in reversed(legs if len(legs) > 1 else []):
        rows, _ = tables.read_plan(leg.plan)
        if seen is not None:
            found[leg.number] = seen
        seen = np.unique(rows.client if seen is None else np.concatenate([seen, rows.client]))
    return found


class _Sent(NamedTuple):
    """When the first request was made and the last row settled (epoch seconds), and how many requests there were."""

    first: float = np.inf
    last: float = -np.inf
    requests: int = 0
    retries: int = 0

    @property
    def span_s(self) -> float:
        return self.last - self.first if self.requests else 0.0

    @classmethod
    def of(cls, part: Part) -> "_Sent":
        first, last = (times[~np.isnan(times)] for times in (part.first_sent, part.settled))
        retries = np.maximum(part.attempts - 1, 0)
        return cls(
            float(first.min(initial=np.inf)),
            float(last.max(initial=-np.inf)),
            int(part.attempts.sum()),
            int(retries.sum()),
        )

    def joined(self, more: "_Sent") -> "_Sent":
        return _Sent(
            min(self.first, more.first),
            max(self.last, more.last),
            self.requests + more.requests,
            self.retries + more.retries,
        )


def _write_leg(
    leg: Leg, out: results.Results, undone: list[tuple[str, str]], later: Ids | None
) -> tuple[dict[str, int], list[Summary], _Sent, int]:
    rows, _ = tables.read_plan(leg.plan)
    totals: list[Mapping[str, int]] = []
    sent = _Sent()
    grants_unsent = 0
    with Reading(leg.journal, len(rows), time.time()) as journal:
        for part in journal.parts():
            chosen = rows.at(slice(part.start, part.start + len(part)))
            out.write(leg.number, chosen, part)
            sent = sent.joined(_Sent.of(part))
            ended = part.outcome
            if later is not None:
                last = ~np.isin(chosen.client, later)
                ended, chosen = ended[last], chosen.at(last)
            totals.append(counts.outcomes(ended))
            unsent = np.isin(ended, (Outcome.EXHAUSTED, Outcome.DEFERRED))
            grants_unsent += int(np.count_nonzero(allowed(chosen.sent[unsent])))
            for outcome in (Outcome.REFUSED, Outcome.EXHAUSTED, Outcome.DEFERRED):
                missed = chosen.client[ended == outcome]
                room = max(0, _UNDONE_KEPT - len(undone))
                undone += [(outcome.name.lower(), str(client)) for client in missed[:room].tolist()]
        codes = [
            {"outcome": outcome.name.lower(), "status": status, "code": code, "message": message, "count": count}
            for outcome, status, code, message, count in journal.codes(counts.masked)
        ]
        return counts.added(totals), codes, sent, grants_unsent


def _shown(settings: Any) -> Any:
    """Return settings without what lets others in by an address; secrets are masked already."""
    if isinstance(settings, Mapping):
        return {name: _shown(one) for name, one in settings.items()}
    if isinstance(settings, list):
        return [_shown(one) for one in settings]
    return naming.shown(settings) if isinstance(settings, str) and "://" in settings else settings


def _said_before(state: State, findings: Findings) -> list[Summary]:
    """Return what the platform said in the run before, of those with an export or of those without, as this one is."""
    for one in reversed(state.ledger.summaries(_LOOKED_THROUGH)):
        if bool(one.get("export")) == bool(findings.export):
            found: list[Summary] = one["codes"]
            return found
    return []


def _round_trips(deliveries: list[Delivery]) -> Summary:
    """Return how long good answers took in all legs, as a histogram."""
    counts_ = [sum(one) for one in zip(*(one.round_trips.counts for one in deliveries), strict=True)]
    return {
        "bounds_s": list(BOUNDS_S),
        "counts": counts_ or [0] * (len(BOUNDS_S) + 1),
        "sum_s": round(sum(one.round_trips.sum_s for one in deliveries), 3),
    }


def _added(deliveries: list[Delivery]) -> Summary | None:
    """Return how the sending went in all legs together; none where a run died and took that with it."""
    sent = [one for one in deliveries if one.requests]
    if not sent:
        return None
    last = sent[-1]
    return {
        "limit": last.limit,
        "round_trip_s": last.round_trip_s,
        "most_in_flight": max(one.most_in_flight for one in sent),
        **{name: sum(getattr(one, name) for one in sent) for name in ("turned_away", "pauses", "outages", "once_more")},
    }


_LOOKED_THROUGH = 200  # runs back, for the last one of its kind
_UNDONE_KEPT = 100_000  # what the next run can know again; a run that leaves more undone is not fine anyway


def _judge_undone(
    state: State, settings: Settings, findings: Findings, undone: list[tuple[str, str]], outcomes: Mapping[str, int]
) -> None:
    """Note it when anything new, or more than is tolerated, was not done."""
    export: Mapping[str, Any] = findings.export or {}
    rejects = int(export.get("rejects", 0))
    missed = rejects + sum(count for name, count in outcomes.items() if name != "delivered")
    if not missed:
        return
    known = state.ledger.undone()
    new = sum(1 for key in {*findings.reject_keys, *undone} if key not in known)
    parts = [f"{rejects:,} rows could not be read"] if rejects else []
    parts += [f"{missed - rejects:,} clients were not done"] if missed > rejects else []
    what = " and ".join(parts)
    tolerated = settings.report.tolerate * int(export.get("rows", 0))
    if new:
        findings.add(Exit.ATTENTION, f"{what}; {new:,} of them new since the last run")
    elif missed > tolerated:
        findings.add(Exit.ATTENTION, f"{what}: more than the tolerated {settings.report.tolerate:.2%} of the export")
