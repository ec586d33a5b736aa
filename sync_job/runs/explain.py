"""`explain` and `history`: all that is known of one client, which rule decides, and what was sent and answered."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.config import Settings
from sync_job.consent.channels import CHANNELS, SHIFTS, letters, unpack
from sync_job.consent.diff import Diff
from sync_job.consent.lists import scope_text
from sync_job.consent.rules import Change, decide
from sync_job.delivery import wire
from sync_job.exports import loader
from sync_job.ledger import lock
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.report.results import SCHEMA
from sync_job.runs import decide as deciding
from sync_job.runs import erasure
from sync_job.runs.decide import Wish
from sync_job.runs.recover import view
from sync_job.runs.report import Findings
from sync_job.runs.watch import Watch

_FORMATS: tuple[wire.Format, ...] = ("json", "xml", "form")
_WORDS = ("nothing", "denied", "allowed", "blank")


def explain(settings: Settings, client: int, watch: Watch, *, with_export: bool) -> Summary:
    """Return everything of one client, the rule for each channel, and what a run would send now.

    Nothing is changed, nothing is sent, and no lock is needed: while a run is under way, what it has done since its
    last commit is not known.
    """
    now = time.time()
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        if lock.is_held(settings.state.path):
            holdings, lingering, dead = state.holdings(), state.ledger.lingering(), list[str]()
        else:
            holdings, lingering, dead = view(state, settings)
        ledger = state.ledger
        ids = np.array([client], np.int32)
        place = int(np.searchsorted(holdings.client, client))
        here = place < len(holdings) and int(holdings.client[place]) == client
        held = int(holdings.state[place]) if here else 0
        due = int(holdings.due[place]) if here else 0
        findings = Findings("explain", "", now)
        statement, raw, case, found = 0, [], None, None
        if with_export:
            export = _read(settings, client, watch)
            raw = [row._asdict() for row in export.raw]
            statement = int(export.statements.of(ids)[0])
            case = deciding.judge(settings, findings, export, ledger, Wish(), now)
            deciding.drop_forgotten(case, erasure.among(settings, export.statements))
            found = deciding.first_plan(case, ledger, holdings, lingering, now, now).diff
        known, owing = deciding.known(ledger, holdings, lingering, now, says=case.statements if case else None)
        withdrawn = int(known.withdrawn.of(ids)[0])
        owed = int(known.owed.table().of(ids)[0])
        lingers, acknowledged = (bool(one[0]) for one in lingering.of(ids, now))
        forgotten = bool(erasure.tombstones(settings).of(ids)[0])
        approved = int(ledger.applied.approved(now).of(ids)[0])
        said = ledger.withdrawals.of(client) | ledger.obligations.of(client)
    barred = client in owing or (case is not None and client in case.ungranted)
    granting = case is not None and case.terms.may_grant and not barred
    hold = case.terms.hold if case else None
    channels = {}
    for channel, shift, says, has, owes in zip(
        CHANNELS, SHIFTS, unpack(statement), unpack(held), unpack(due), strict=True
    ):
        kinds = set()
        if hold and (approved >> shift & 3) != says:
            kinds = {Change.NEW_GRANT} if hold.new_grants else set()
            kinds |= {Change.RE_GRANT} if hold.re_grants else set()
            kinds |= {Change.REVOCATION} if hold.revocations >> shift & 1 else set()
        ruling = decide(
            says,
            has,
            owes,
            withdrawn=bool(withdrawn >> shift & 1),
            owed=bool(owed >> shift & 1),
            may_grant=granting,
            held=frozenset(kinds),
        )
        channels[channel] = {
            "statement": _WORDS[says] if statement else "not in the export",
            "state": _WORDS[has],
            "due": _WORDS[owes],
            "withdrawn": bool(withdrawn >> shift & 1),
            "owed": bool(owed >> shift & 1),
            "rule": "P0" if forgotten else "P4" if ruling.held else ruling.rule.name,
            "why": _why(ruling.rule.name, ruling.held, forgotten),
            "target": "nothing" if forgotten else _WORDS[ruling.target],
            "blocked": ruling.blocked,
            "held": ruling.held,
        }
    sent = _sent(found, client)
    return {
        "client": client,
        "target": settings.endpoint.target,
        "known": here,
        "rows": raw,
        "state": letters(held),
        "due": letters(due),
        "channels": channels,
        "may_be_granted": granting,
        "why_not": findings.restrict_only
        or ("a row of this client was rejected, or a denial is owed" if barred else ""),
        "guards": [str(trip) for trip in case.judgement.trips] if case else [],
        "forgotten": forgotten,
        "lingers": lingers,
        "acknowledged_since": acknowledged,
        "approved": letters(approved),
        **_readable(said),
        "would_send": letters(sent),
        "requests": _requests(settings, client, sent) if sent else {},
        "recovers": dead,
    }


def _read(settings: Settings, client: int, watch: Watch) -> loader.Export:
    watch.stage("reading")
    try:
        return loader.load(
            settings.export,
            settings.run.zone,
            where=settings.export.path,
            first_look=False,
            now=time.time(),
            progress=watch.at,
            wanted=client,
        )
    finally:
        watch.end()


def _sent(found: Diff | None, client: int) -> int:
    if found is None:
        return 0
    place = np.flatnonzero(found.rows.client == client)
    return int(found.rows.sent[place[0]]) if len(place) else 0


def _why(rule: str, held: bool, forgotten: bool) -> str:
    if forgotten:
        return "the client was erased: nothing is sent or kept"
    if held:
        return "what the export says is held: by a guard, or because the run may not grant"
    return {
        "P1": "a withdrawal covers it",
        "P2": "the export says denied",
        "P3": "the export says allowed",
        "P5": "a denial is due",
        "P6": "nothing is asked for",
    }[rule]


def _readable(said: dict[str, Any]) -> Summary:
    """Return what the ledger has of a client, with channels as names."""
    for name in ("withdrawals", "reconsents", "obligations"):
        for one in said[name]:
            for column in ("channels", "in_force", "owed"):
                if column in one:
                    one[column] = scope_text(one[column])
    if said["waiting"]:
        said["waiting"]["sent"] = letters(said["waiting"]["sent"])
    return said


def _requests(settings: Settings, client: int, sent: int) -> Summary:
    """Return the request in each format, with the token masked."""
    endpoint = settings.endpoint
    token = int(endpoint.token.get_secret_value()) if endpoint.token else None
    sender = wire.Sender(endpoint.operator, token, endpoint.site_code)
    return {format_: wire.masked(wire.encoder(format_, sender)(client, sent)).decode() for format_ in _FORMATS}


def history(settings: Settings, client: int) -> Summary:
    """Return what was sent of a client and answered, from the results that are still kept, the oldest first."""
    rows: list[dict[str, Any]] = []
    folder = settings.report.path
    for path in sorted(folder.glob("*/results.*")) if folder.is_dir() else []:
        for row in _rows_of(path, client):
            rows.append({"run": path.parent.name} | {name: row[name] for name in SCHEMA.names if name != "Client"})
    for row in rows:
        for name in ("first_sent", "settled"):
            row[name] = row[name].isoformat() if row[name] is not None else None
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        said = _readable(state.ledger.withdrawals.of(client) | state.ledger.obligations.of(client))
    return {"client": client, "target": settings.endpoint.target, "sent": rows, "withdrawals": said["withdrawals"]}


def _rows_of(path: Path, client: int) -> list[dict[str, Any]]:
    """Return the rows of one client in a results file, read in blocks."""
    found: list[dict[str, Any]] = []
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1 << 16):
                found += batch.filter(pc.equal(batch.column("Client"), client)).to_pylist()
        return found
    convert = pyarrow.csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=False)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(path, convert_options=convert, parse_options=parse) as reader:
        for batch in reader:
            found += batch.filter(pc.equal(batch.column("Client"), client)).to_pylist()
    return found
