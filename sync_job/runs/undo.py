"""`undo` of a run: denies what that run granted, by its results; it never grants anything."""

import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.config import Settings
from sync_job.consent.channels import ALL_BLANK, NOBODY, Bytes, Ids, Mask, allowed, denied, spread, stated
from sync_job.consent.tables import tabulate
from sync_job.errors import ConfigError
from sync_job.exports import sources
from sync_job.exports.loader import Export, Input
from sync_job.ledger.state import State
from sync_job.report import lists, results
from sync_job.runs import look, report
from sync_job.runs.night import Read


class Taken(NamedTuple):
    """Clients of a run, ascending, and what each was sent last by it and may have taken, as a byte."""

    client: Ids
    sent: Bytes


def reading(settings: Settings, name: str) -> Read:
    """Return what reads the statements that undo a run, by its id or number.

    Raises:
        ConfigError: when there is no such run, or its results are not kept any more.
    """
    with State.open(settings.state.path, settings.endpoint.target, write=False, live=True) as state:
        run = look.reported(state, name)
    folder = report.folder_of(settings, run.run)
    kept = sorted(folder.glob("results.*"))
    if not kept:
        raise ConfigError(
            f"undo {run.run}: its results are not in {folder.absolute()} any more; nobody knows what was."
        )
    return lambda out: (_export(settings, kept[0], out), [])


def _export(settings: Settings, path: Path, out: Path | None) -> Export:
    """Return a denial of everything that the results in *path* granted, and that the platform may still allow.

    What the run denied is left alone: the next right export heals it, through the guards. It is listed in *out*.
    """
    was = taken(path)
    with State.open(settings.state.path, settings.endpoint.target, write=False, live=True) as state:
        holds, due = state.holdings().of(was.client)
    granted = allowed(was.sent) & (allowed(holds) | allowed(due))
    says = (granted | (np.uint8(ALL_BLANK) & ~spread(granted))).astype(np.uint8)
    left = denied(was.sent)
    if out is not None:
        lists.write_channels(out / "not_undone.csv", was.client[left != 0], left[left != 0])
    which = granted != 0
    ids, unsaid, now = was.client[which], int(np.count_nonzero(left)), time.time()
    statements = tabulate(ids, ids, says[which])
    digest = sources.digest(sources.LocalFile(path))
    return Export(
        statements=statements,
        inputs=[Input(str(path), path.suffix[1:], path.stat().st_size, digest, len(was.client))],
        rows=len(ids),
        rejects=0,
        duplicates=0,
        conflicting=NOBODY,
        ungranted=NOBODY,
        in_rejects_only=0,
        tokens={},
        reasons=Counter({"denied by that run, and left alone: not_undone.csv": unsaid}) if unsaid else Counter(),
        missing=(),
        as_of=now,
        newest=now,
        digest=statements.digest(),
    )


def taken(path: Path) -> Taken:
    """Return what each client of a results file was sent last in it.

    What the platform surely did not take does not count: what it holds of that it has from somebody else.
    """
    columns = ["Client", "leg", "sent", "outcome", "denials", "doubt"]
    parts = [
        (batch.column("Client").to_numpy(), batch.column("leg").to_numpy(), _taken(batch))
        for batch in results.reading(path, columns)
    ]
    if not parts:
        return Taken(NOBODY, np.zeros(0, np.uint8))
    client, leg, sent = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((leg, client))
    client, sent = client[order], sent[order]
    ids, first, rows = np.unique(client, return_index=True, return_counts=True)
    last = np.zeros(len(ids), np.uint8)
    for later in range(int(rows.max())):
        here = rows > later
        told = sent[first[here] + later]
        last[here] = last[here] & ~spread(stated(told)) | told
    return Taken(ids.astype(np.int32), last)


def _taken(batch: pa.RecordBatch) -> Bytes:
    """Return what of each row the platform took, or may have taken."""
    sent = results.letters_of(batch.column("sent"))
    whole = _is(batch, "outcome", "delivered") | ~_is(batch, "doubt", "")
    denials = np.where(_is(batch, "denials", "delivered"), denied(sent), np.uint8(0))
    return np.where(whole, sent, denials).astype(np.uint8)


def _is(batch: pa.RecordBatch, column: str, word: str) -> Mask:
    return np.asarray(pc.equal(batch.column(column), word).to_numpy(zero_copy_only=False), np.bool_)
