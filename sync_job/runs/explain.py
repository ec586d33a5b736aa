"""`explain`: all that is known of one client, which rule decides each channel, and what would be sent now, or why not.

It changes nothing and needs no lock. Which reports tell of the client is `history`'s.
"""

import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import ALLOWED, CHANNELS, NOTHING, SHIFTS, Bytes, Ids, letters, unpack
from sync_job.consent.diff import send
from sync_job.consent.guards import Guard
from sync_job.consent.known import Holdings, Known, Lingering
from sync_job.consent.lists import scope_text
from sync_job.consent.rows import Rows, obligations
from sync_job.consent.rules import FREE, Change, Ruling, decide, older
from sync_job.delivery import wire
from sync_job.errors import StateError
from sync_job.exports import lists, loader
from sync_job.ledger import inbox, lock, tables
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.report.lists import moment
from sync_job.runs import decide as deciding
from sync_job.runs import erasure, foreseeing
from sync_job.runs.decide import Case, Wish
from sync_job.runs.recover import view
from sync_job.runs.report import Findings
from sync_job.runs.watch import Watch

_FORMATS: tuple[wire.Format, ...] = ("json", "xml", "form")
_WORDS = ("nothing", "denied", "allowed", "blank")
_KINDS = {Guard.NEW_GRANTS: Change.NEW_GRANT, Guard.RE_GRANTS: Change.RE_GRANT, Guard.REVOCATIONS: Change.REVOCATION}
_RULES = {
    "P1": "a withdrawal covers it",
    "P2": "the export says denied",
    "P3": "the export says allowed",
    "P5": "a denial is due",
    "P6": "nothing is asked for",
}


class _Looked(NamedTuple):
    """What a run would find now: the export's case, if there is one, what is known, and the plan."""

    case: Case | None
    known: Known
    owing: Ids
    rows: Rows


class _Client(NamedTuple):
    """One client by what is known of it: its statement, State and Due as bytes, and what is withdrawn, owed, approved.

    *withdrawn* and *owed* have the low bit of each channel, *refused* what was refused and waits, as a byte. *older*
    has the low bit of each channel that the export may not grant, because the newest denial, stated at *denied_at*,
    is not older than it.
    """

    says: int
    state: int
    due: int
    withdrawn: int
    owed: int
    approved: int
    refused: int
    acknowledged: bool
    barred: bool
    forgotten: bool
    older: int
    denied_at: float


def explain(settings: Settings, client: int, watch: Watch, *, with_export: bool, as_of: float | None = None) -> Summary:
    """Return everything of one client, the rule for each channel, and what a run would send now.

    Nothing is changed, nothing is sent, and no lock is needed: while a run is under way, what it has done since its
    last commit is not known. Lists of the inbox count as taken in; *coming* names them. *with_export*: by the export
    that the settings name, made *as_of* if they leave that to the caller; otherwise by what is owed alone.

    Raises:
        ExportError, ConfigError: when the export cannot be read.
        StateError: when there is no state.
    """
    now = time.time()
    coming = _coming(settings.state.path, client)
    with foreseeing.opened(settings) as state:
        if lock.is_held(settings.state.path):
            holdings, lingering, dead = state.holdings(), state.ledger.lingering(), list[str]()
        else:
            holdings, lingering, dead = view(state, settings)
        findings = Findings("explain", "", now)
        not_before = deciding.not_before(settings, state.ledger, now)
        export = _read(settings, client, watch, as_of, not_before) if with_export else None
        # Before the plan: the statements of who was erased are taken out of it.
        stated = int(export.statements.of(_ids(client))[0]) if export else 0
        looked = _look(state, settings, findings, export, holdings, lingering, now)
        one = _client(state, settings, looked, client, now)
        said = state.ledger.withdrawals.of(client) | state.ledger.obligations.of(client)
        held = _held(state, client)
    sent = _sent(looked.rows, client)
    lingers, _ = lingering.of(np.array([client], np.int32), now)
    channels = _channels(looked.case, one, stated)
    return {
        "client": client,
        "target": settings.endpoint.target,
        "known": bool(one.state or one.due),
        "with_export": with_export,
        "rows": [row._asdict() for row in export.raw] if export else [],
        "state": letters(one.state),
        "due": letters(one.due),
        "channels": channels,
        "may_be_granted": _may_grant(looked.case, one),
        "why_not": _why_not(findings, looked.case, one, client),
        "guards": [str(trip) for trip in looked.case.judgement.trips] if looked.case else [],
        "held": held,
        "forgotten": one.forgotten,
        "lingers": bool(lingers[0]),
        "acknowledged_since": one.acknowledged,
        "approved": letters(one.approved),
        **readable(said, settings.run.zone),
        "coming": coming,
        "would_send": letters(sent),
        "why_nothing": "" if sent else _why_nothing(one, channels, with_export=with_export),
        "requests": _requests(settings, client, sent) if sent else {},
        "recovers": dead,
    }


def _ids(client: int) -> Ids:
    return np.array([client], np.int32)


def _read(settings: Settings, client: int, watch: Watch, as_of: float | None, not_before: float) -> loader.Export:
    watch.stage("reading")
    try:
        return loader.load(
            settings.export,
            settings.run.zone,
            where=settings.export.path,
            first_look=False,
            as_of=as_of,
            now=time.time(),
            progress=watch.at,
            wanted=client,
            not_before=not_before,
        )
    finally:
        watch.stage("deciding")


def _look(
    state: State,
    settings: Settings,
    findings: Findings,
    export: loader.Export | None,
    holdings: Holdings,
    lingering: Lingering,
    now: float,
) -> _Looked:
    """Return what a run of this export would find and plan now; without one, what a drain would."""
    ledger = state.ledger
    if export is None:
        known, owing = deciding.known(ledger, holdings, lingering, now)
        return _Looked(None, known, owing, obligations(holdings, known.owed, lingering, now))
    case = deciding.judge(settings, findings, export, ledger, Wish(), now)
    deciding.drop_forgotten(case, erasure.among(settings, export.statements, ledger.forgetting.asked()))
    found, taken_back, _ = deciding.first_plan(case, ledger, holdings, lingering, now, now)
    known, owing = deciding.known(ledger, holdings, lingering, now, since=now, says=case.statements, less=taken_back)
    return _Looked(case, known, owing, found.rows)


def _client(state: State, settings: Settings, looked: _Looked, client: int, now: float) -> _Client:
    ids, case, known = _ids(client), looked.case, looked.known
    held, due = (int(found[0]) for found in known.holdings.of(ids))
    says = int(case.statements.of(ids)[0]) if case else 0
    if case and not says and (held or due):
        says = case.terms.absent
    _, acknowledged = known.lingering.of(ids, now)
    denied_at = known.holdings.denied_at(ids)
    bytes_ = np.array([held], np.uint8), np.array([due], np.uint8)
    return _Client(
        says=says,
        state=held,
        due=due,
        withdrawn=int(known.withdrawn.of(ids)[0]),
        owed=int(known.owed.table().of(ids)[0]),
        approved=int(state.ledger.applied.approved(now).of(ids)[0]),
        refused=int(known.waiting.of(ids)[0]),
        acknowledged=bool(acknowledged[0]),
        barred=client in looked.owing or (case is not None and client in case.ungranted),
        forgotten=bool(erasure.tombstones(settings).of(ids)[0]),
        older=int(older(case.terms.stated_at(ids), *bytes_, denied_at, alone=case.terms.alone)[0]) if case else 0,
        denied_at=float(denied_at[0]),
    )


def _may_grant(case: Case | None, one: _Client) -> bool:
    return case is not None and case.terms.may_grant and not one.barred


def _channels(case: Case | None, one: _Client, stated: int) -> Summary:
    """Return, channel by channel, what is known, the rule that decides and why, and what is to come of it."""
    hold = case.terms.hold if case else FREE
    found = {}
    for channel, shift, in_file, says, has, owes in zip(
        CHANNELS, SHIFTS, unpack(stated), unpack(one.says), unpack(one.state), unpack(one.due), strict=True
    ):
        kinds = set()
        if (one.approved >> shift & 3) != says:
            kinds = {Change.NEW_GRANT} if hold.new_grants else set()
            kinds |= {Change.RE_GRANT} if hold.re_grants else set()
            kinds |= {Change.REVOCATION} if hold.revocations >> shift & 1 else set()
        owed = bool(one.owed >> shift & 1)
        ruling = decide(
            says,
            has,
            owes,
            withdrawn=bool(one.withdrawn >> shift & 1),
            owed=owed,
            may_grant=_may_grant(case, one) and not one.older >> shift & 1,
            held=frozenset(kinds),
        )
        # Where the ids look renumbered nothing goes but what is owed: all that would change is held.
        renumbered = bool(case and case.terms.only_owed) and not owed and ruling.target != NOTHING
        renumbered &= ruling.target != has or owes != NOTHING
        ruled = _ruled(case, one, channel, says, ruling, renumbered=renumbered)
        if not stated and ruled["rule"] == "P2":
            ruled["why"] = "the export has the client no more, and that is taken as denied"
        found[channel] = {
            "statement": _WORDS[in_file] if stated else "not in the export" if case else "no export looked at",
            "state": _WORDS[has],
            "due": _WORDS[owes],
            "withdrawn": bool(one.withdrawn >> shift & 1),
            "owed": owed,
            **ruled,
        }
    return found


def _ruled(case: Case | None, one: _Client, channel: str, says: int, ruling: Ruling, *, renumbered: bool) -> Summary:
    if one.forgotten and ruling.rule.name not in ("P1", "P5"):
        said = {"rule": "P0", "why": "the client was erased: nothing of an export is sent or kept", "target": "nothing"}
        return said | {"blocked": False, "held": False}
    why = _RULES[ruling.rule.name]
    if ruling.held or renumbered:
        why = f"what the export says is held: {_holding(case, one, channel, says, ruling, renumbered=renumbered)}"
    return {
        "rule": "P4" if ruling.held else ruling.rule.name,
        "why": why,
        "target": "nothing" if renumbered else _WORDS[ruling.target],
        "blocked": ruling.blocked,
        "held": ruling.held or renumbered,
    }


def _holding(case: Case | None, one: _Client, channel: str, says: int, ruling: Ruling, *, renumbered: bool) -> str:
    """Return what holds a channel, in words."""
    if case is None:
        return ""
    trips = case.judgement.trips
    if renumbered:
        return "; ".join(str(trip) for trip in trips if trip.guard in (Guard.CHANGED, Guard.UNKNOWN))
    shift = SHIFTS[CHANNELS.index(channel)]
    if says == ALLOWED and _may_grant(case, one) and one.older >> shift & 1:
        return f"the export is not newer than the denial of {moment(one.denied_at)}"
    if says == ALLOWED and not _may_grant(case, one):
        return "the client may not be granted anything" if one.barred else "the run may not grant"
    fits = [trip for trip in trips if _KINDS.get(trip.guard) is ruling.change and trip.channel in ("", channel)]
    return "; ".join(map(str, fits))


def _why_not(findings: Findings, case: Case | None, one: _Client, client: int) -> str:
    """Return why the client is granted nothing; "" where it may be, or no export is looked at."""
    if case is None:
        return ""
    why = [findings.restrict_only] if findings.restrict_only else []
    if client in case.ungranted:
        why.append("a row of this client was rejected, or it is an id from before the platform's ids changed")
    elif one.barred:
        why.append("a denial is owed to this client, and a refused grant must not delay it")
    return "; ".join(why)


def _why_nothing(one: _Client, channels: Summary, *, with_export: bool) -> str:
    """Return why nothing is sent of a client."""
    if one.forgotten and not one.withdrawn:
        return "the client was erased"
    if not with_export:
        return "no denial is owed now, and no export was looked at"
    target = _pack(channels)
    now, later = (_changes(one, target, acknowledged=waits) for waits in (one.acknowledged, False))
    if not later and any(channel["held"] for channel in channels.values()):
        return "what would change is held"
    if not target:
        return "nothing is asked for"
    if not later:
        return "the platform acknowledged all of it before"
    if not now:
        return "it was acknowledged, and is sent once more when the client lingers no longer"
    return "it was refused before, and waits for its next try" if one.refused else "it waits"


def _changes(one: _Client, target: int, *, acknowledged: bool) -> int:
    """Return the channels, a low bit each, that would be sent to reach *target*."""
    wanted, state, due, owed = (np.array([value], np.uint8) for value in (target, one.state, one.due, one.owed))
    return int(send(wanted, state, due, np.array([acknowledged]), restate=True, owed=owed).changes[0])


def _pack(channels: Summary) -> int:
    return sum(
        _WORDS.index(channels[channel]["target"]) << shift for channel, shift in zip(CHANNELS, SHIFTS, strict=True)
    )


def _sent(rows: Rows, client: int) -> int:
    place = np.flatnonzero(rows.client == client)
    return int(rows.sent[place[0]]) if len(place) else 0


def _held(state: State, client: int) -> list[Summary]:
    """Return what the last run that held something held of the client, and by which guards."""
    found = []
    for one in state.ledger.applied.held_runs()[-1:]:
        path = state.folder / "held" / f"{one.run}.parquet"
        if path.exists():
            held = tables.read_held(path)
            for stated in held.stated[held.client == client].tolist():
                found.append({"run": one.run, "at": one.at, "stated": letters(stated), "guards": one.guards})
    return found


def _coming(folder: Path, client: int) -> list[Summary]:
    """Return what lists say of the client that nobody has taken into the ledger yet."""
    found = []
    for path in inbox.waiting(folder):
        try:
            batches, about = inbox.read(path)
            rows = [row for batch in batches for row in _rows_of(batch, client)]
        except StateError:
            if path.exists():
                raise
            continue  # whoever holds the lock has taken it into the ledger meanwhile
        found += [
            {"list": about["digest"], "channels": scope_text(row["channels"]), "received_at": row["received_at"]}
            for row in rows
        ]
    return found


def _rows_of(batch: Any, client: int) -> list[dict[str, Any]]:
    which: Bytes = batch.column("client").to_numpy() == client
    rows: list[dict[str, Any]] = batch.take(np.flatnonzero(which)).to_pylist() if which.any() else []
    return rows


def readable(said: dict[str, Any], zone: ZoneInfo) -> Summary:
    """Return what the ledger has of a client, with channels as names, and the day where that is all that is known."""
    for one in said.get("withdrawals", ()):
        at = datetime.fromtimestamp(one["withdrawn_at"], zone)
        one["withdrawn_on"] = str(at.date()) if lists.is_whole_day(at) else ""
    for name in ("withdrawals", "reconsents", "obligations"):
        for one in said.get(name, ()):
            for column in ("channels", "in_force", "owed"):
                if column in one:
                    one[column] = scope_text(one[column])
    if said.get("waiting"):
        said["waiting"]["sent"] = letters(said["waiting"]["sent"])
    return said


def _requests(settings: Settings, client: int, sent: int) -> Summary:
    """Return the request in each format, with the token masked."""
    endpoint = settings.endpoint
    token = int(endpoint.token.get_secret_value()) if endpoint.token else None
    sender = wire.Sender(endpoint.operator, token, endpoint.site_code)
    return {format_: wire.masked(wire.encoder(format_, sender)(client, sent)).decode() for format_ in _FORMATS}
