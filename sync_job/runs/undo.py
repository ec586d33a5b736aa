"""`undo` of a run: an ordinary guarded run of what the platform held before, by that run's results."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.config import Settings
from sync_job.consent.channels import ALL_BLANK, NOBODY, Bytes, Ids, Mask, denied, deny, spread, stated
from sync_job.consent.tables import tabulate
from sync_job.errors import ConfigError
from sync_job.exports import sources
from sync_job.exports.loader import Export, Input
from sync_job.ledger.state import State
from sync_job.report import lists, results
from sync_job.runs import look, report
from sync_job.runs.night import Read


class Before(NamedTuple):
    """Clients of a run, ascending: what each held before it, and what it was sent last and may have taken, as bytes.

    What was due to be denied before the run is taken for denied: it had been decided.
    """

    client: Ids
    state: Bytes
    sent: Bytes


def guarded(settings: Settings) -> Settings:
    """Return the settings of an undo: as no export says who is allowed again, a person has to, with their number."""
    guards = settings.guards.model_copy(update={"re_grants": 0, "re_grants_share": 0.0})
    return settings.model_copy(update={"guards": guards})


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
    """Return what the results in *path* say was before, of what the platform still holds as that run sent it.

    What was *nothing* before cannot be said to the platform; it is listed in *out*.
    """
    was = before(path)
    with State.open(settings.state.path, settings.endpoint.target, write=False, live=True) as state:
        holds = state.holdings().of(was.client)[0]
    changed = spread(stated(was.sent) & ~stated(holds ^ was.sent) & stated(was.state ^ was.sent))
    says = was.state & changed
    says = (says | (np.uint8(ALL_BLANK) & ~spread(stated(says)))).astype(np.uint8)
    nothing = stated(changed) & ~stated(was.state)
    which = changed != 0
    if out is not None:
        lists.write_channels(out / "not_undone.csv", was.client[nothing != 0], nothing[nothing != 0])
    digest = sources.digest(sources.LocalFile(path))
    ids = was.client[which]
    unsaid = int(np.count_nonzero(nothing))
    return Export(
        statements=tabulate(ids, ids, says[which]),
        inputs=[Input(str(path), path.suffix[1:], path.stat().st_size, digest, len(was.client))],
        rows=len(ids),
        rejects=0,
        duplicates=0,
        conflicting=NOBODY,
        ungranted=NOBODY,
        in_rejects_only=0,
        tokens={},
        reasons=Counter({"of whom nothing had been known: not_undone.csv": unsaid}) if unsaid else Counter(),
        missing=(),
        digest=digest,
    )


def before(path: Path) -> Before:
    """Return what each client of a results file held before the run, and was sent last in it.

    What the platform surely did not take does not count: what it holds of that it has from somebody else.
    """
    parts = [
        (
            batch.column("Client").to_numpy(),
            batch.column("leg").to_numpy(),
            deny(results.letters_of(batch.column("state")), denied(results.letters_of(batch.column("due")))),
            _taken(batch),
        )
        for batch in results.reading(path, ["Client", "leg", "state", "due", "sent", "outcome", "denials", "doubt"])
    ]
    if not parts:
        return Before(NOBODY, np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    client, leg, state, sent = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((leg, client))
    client, state, sent = client[order], state[order], sent[order]
    ids, first, rows = np.unique(client, return_index=True, return_counts=True)
    last = np.zeros(len(ids), np.uint8)
    for later in range(int(rows.max())):
        here = rows > later
        told = sent[first[here] + later]
        last[here] = last[here] & ~spread(stated(told)) | told
    return Before(ids.astype(np.int32), state[first], last)


def _taken(batch: pa.RecordBatch) -> Bytes:
    """Return what of each row the platform took, or may have taken."""
    sent = results.letters_of(batch.column("sent"))
    whole = _is(batch, "outcome", "delivered") | ~_is(batch, "doubt", "")
    denials = np.where(_is(batch, "denials", "delivered"), denied(sent), np.uint8(0))
    return np.where(whole, sent, denials).astype(np.uint8)


def _is(batch: pa.RecordBatch, column: str, word: str) -> Mask:
    return np.asarray(pc.equal(batch.column(column), word).to_numpy(zero_copy_only=False), np.bool_)
