"""What is asked about withdrawals and done to them beside sending: status, report, evidence that lifts, mistakes."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from sync_job.config import Settings
from sync_job.consent.channels import allowed
from sync_job.errors import ConfigError
from sync_job.exports import lists
from sync_job.ledger.state import State
from sync_job.report import counts
from sync_job.report.counts import Summary
from sync_job.report.lists import open_private
from sync_job.runs import anchoring, erasure, foreseeing, intake, owing
from sync_job.runs.recover import holding

_SHOWN = 50


def _open(settings: Settings) -> State:
    return State.open(settings.state.path, settings.endpoint.target, write=False)


def status(settings: Settings) -> Summary:
    """Return what is owed to people who withdrew, by age, and what lies in the inbox."""
    with _open(settings) as state:
        found = owing.figures(state, settings)
        listed = state.ledger.obligations.open_list(_SHOWN)
        lists_taken = state.ledger.withdrawals.lists(10)
        restored = state.ledger.about.restored()
    return {
        "target": settings.endpoint.target,
        **found,
        "restored": restored,
        "oldest": listed,
        "lists": lists_taken,
    }


def report(settings: Settings, since: float, until: float) -> Summary:
    """Return what came in between two times and what became of it, and how fast it was acknowledged.

    *others* are the denials that were owed since for another reason than a list.
    *withdrawn_and_allowed* counts clients with a withdrawn channel that the platform last acknowledged as allowed,
    and of which nothing is owed: it must be 0.
    """
    now = time.time()
    with _open(settings) as state:
        found = state.ledger.withdrawals.report(since, until)
        others = state.ledger.obligations.others(since, until)
        now_owed = owing.figures(state, settings)
        holdings, withdrawn = state.holdings(), state.ledger.withdrawals.in_force()
        owed = state.ledger.obligations.owed(now)
        erasures = state.ledger.forgetting.erasures(since, until)
    counts.check_received(found)
    channels = allowed(holdings.state) & withdrawn.of(holdings.client)
    contradicting = holdings.client[channels != 0]
    not_owed = ~pa.compute.is_in(pa.array(contradicting), pa.array(owed.client)).to_numpy(zero_copy_only=False)
    return {
        "target": settings.endpoint.target,
        "from": since,
        "to": until,
        **found,
        "others": others,
        **{name: now_owed[name] for name in ("lists_waiting", "clients_waiting")},
        "found_by_compare": int(now_owed["by_source"].get("compare", 0)),
        "withdrawn_and_allowed": int(not_owed.sum()),
        "withdrawn_and_owed": len(contradicting) - int(not_owed.sum()),
        "erasures": erasures,
    }


def close(settings: Settings, client: int, *, reason: str, by: str) -> Summary:
    """Close what is owed to one client by hand, and return how many obligations that were; a withdrawal stays.

    *since* is when the very same was done before, if nothing is owed any more.

    Raises:
        ConfigError: when nothing is owed to it, or nobody says why.
    """
    if not reason.strip() or not by.strip():
        raise ConfigError("withdrawals close: say why (--reason) and who (--by); both are kept and reported.")
    with holding(settings, lists_only=True) as state:
        closed = state.ledger.obligations.close(client, reason.strip(), by.strip(), time.time())
        before = [one for one in state.ledger.obligations.of(client)["obligations"] if one["ended"] == "by hand"]
    if closed:
        return {"closed": closed, "since": None}
    if not before:
        raise ConfigError(f"Nothing is owed to client {client}. `consent-sync withdrawals status` lists what is.")
    last = max(before, key=lambda one: one["closed"])
    if (last["reason"], last["by"]) != (reason.strip(), by.strip()):
        said = f"{last['by']} closed it by hand: {last['reason']}"
        raise ConfigError(f"Nothing is owed to client {client} any more: {said}.")
    # Given again: its first caller may never have heard that it was done.
    return {"closed": sum(one["closed"] == last["closed"] for one in before), "since": last["closed"]}


def is_withdrawn(settings: Settings, client: int) -> bool:
    """Return whether any withdrawal of a client is in force."""
    with _open(settings) as state:
        return bool(state.ledger.withdrawals.in_force().of(np.array([client], np.int32))[0])


def void(settings: Settings, digest: str, *, reason: str, by: str, approved_by: str) -> Summary:
    """Take back a list that should not have been taken in; grants that follow from it are guarded like any.

    Raises:
        ConfigError: when there is no such list, it is void already, or one person alone says so.
    """
    if not reason.strip():
        raise ConfigError("withdrawals void: say why (--reason); it is kept and reported.")
    with holding(settings, lists_only=True) as state:
        try:
            found = state.ledger.withdrawals.void(digest, reason.strip(), by.strip(), approved_by.strip(), time.time())
        except ValueError as exc:
            raise ConfigError(f"withdrawals void: {exc}.") from exc
    return vars(found)


def export(settings: Settings, out: Path) -> int:
    """Write every withdrawal to *out*, those on lists of the inbox too, and return how many there are.

    Raises:
        ConfigError: when the name ends in neither .csv nor .parquet, or it cannot be written.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"{out}: the name must end in .csv or .parquet.")
    count = 0
    with foreseeing.opened(settings) as state:
        writer: pa.csv.CSVWriter | pq.ParquetWriter | None = None
        try:
            open_private(out)
            for batch in state.ledger.withdrawals.export_rows():
                if settings.export.id_map is not None:  # so that they are not taken for the CRM's when they are read
                    batch = batch.append_column("platform_id", batch.column("Client"))
                else:
                    batch = batch.drop_columns(["crm_id"])
                if writer is None:
                    opened = pa.csv.CSVWriter if out.suffix == ".csv" else pq.ParquetWriter
                    writer = opened(str(out), batch.schema)
                writer.write_table(pa.Table.from_batches([batch]))
                count += batch.num_rows
        except OSError as exc:
            raise ConfigError(f"{out}: {exc.strerror or exc}.") from exc
        finally:
            if writer is not None:
                writer.close()
    return count


def reconsent(
    settings: Settings, path: str, columns: dict[str, str], *, sheet: str = "", contacts: str = ""
) -> Summary:
    """Lift what evidence of a later consent lifts, and return what was lifted and what was not, and why.

    Raises:
        ExportError: when the ledger of evidence cannot be read.
    """
    now = time.time()
    found = lists.read_reconsents(path, settings, columns=columns, sheet=sheet, contacts=contacts, now=now)
    with holding(settings) as state:
        intake.refuse_unmapped(state, settings)
        found = erasure.received_since(settings, found, "granted_at")
        lifted = state.ledger.withdrawals.lift(found.table.to_batches(1 << 16), now)
        anchoring.keep(state, settings)
    return {
        "target": settings.endpoint.target,
        "rows": found.rows,
        "rejected": found.rejected,
        "reasons": dict(found.reasons),
        "rejects": [vars(reject) for reject in found.rejects],
        "erased": found.erased,
        "lifted": lifted.lifted,
        "lifted_before": lifted.before,
        "refused": [{"client": client, "rule": rule} for client, rule in lifted.refused],
    }
