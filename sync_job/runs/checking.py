"""What `check` says of an export: how it was read, what it holds, and what about it looks wrong. Nothing is changed."""

import time
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from sync_job.config import ExportSettings
from sync_job.consent.channels import ALLOWED, BLANK, DENIED, FIELDS, LAST_ID, Ids
from sync_job.exports import cells, csv_piece, guessing, loader
from sync_job.exports.blocks import Rejects, words_of
from sync_job.exports.loader import Export, Input
from sync_job.report.counts import Summary
from sync_job.runs.watch import Watch

_SHOWN = 5  # rejects shown of each reason
_REASONS = 50
_TOKENS = 50  # of a channel, the most frequent first
_FEW = 20  # rows of which nothing can be told by their likeness
_SAYS = {ALLOWED: "allowed", DENIED: "denied", BLANK: "nothing", 0: "unknown"}


class _Samples:
    """Keeps the first rejects of each reason."""

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, Any]]] = {}

    def keep(self, rejects: Rejects) -> None:
        """Look through some more rejects."""
        if len(self.found) > _REASONS and all(len(rows) >= _SHOWN for rows in self.found.values()):
            return
        chosen = rejects.table.select(["reject_file", "reject_line", "reject_reasons", "reject_raw"])
        for row in chosen.slice(0, 10_000).to_pylist():
            of_reason = self.found.setdefault(row["reject_reasons"].split(" '", 1)[0], [])
            if len(of_reason) < _SHOWN:
                of_reason.append({name.removeprefix("reject_"): value for name, value in row.items()})


def check(settings: ExportSettings, zone: ZoneInfo, where: str, watch: Watch, as_of: float | None = None) -> Summary:
    """Return what an export holds and how it was read, with the first rejects of each reason, and warnings."""
    samples, now = _Samples(), time.time()
    watch.stage("reading")
    export = loader.load(
        settings, zone, where=where, first_look=True, as_of=as_of, now=now, sink=samples.keep, progress=watch.at
    )
    watch.end()
    ids, _ = export.statements.items()
    span = int(ids[-1]) - int(ids[0]) + 1 if len(ids) else 0
    return export.counts() | {
        "inputs": [vars(one) | mapping(one, settings) for one in export.inputs],
        "said": said(export, settings),
        "lowest_id": int(ids[0]) if len(ids) else None,
        "highest_id": int(ids[-1]) if len(ids) else None,
        "density": round(len(ids) / span, 4) if span else 0.0,
        "as_of_by": settings.as_of,
        "age_h": None if export.as_of is None else round(max(0.0, now - export.as_of) / 3600, 2),
        "samples": samples.found,
        "warnings": list(warnings(export, ids, settings)),
    }


def infer(settings: ExportSettings, where: str) -> list[Summary]:
    """Return what `[export]` should say so that the export is read, key by key, each with the reason."""
    return [vars(one) for one in guessing.guess(where, settings)]


def mapping(read: Input, settings: ExportSettings) -> dict[str, Any]:
    """Return which column of a file was taken for what and by which rule, and the columns that were not looked at."""
    columns = settings.columns
    names = dict(zip(FIELDS, columns.channels, strict=True))
    wanted = {"Client": columns.Client, **names, "consent_changed_at": columns.consent_changed_at}
    own = {name: original for original, name in read.renamed.items()}
    mapped = []
    for name, column in wanted.items():
        by = "exactly"
        if not column:
            by = "not mapped"
        elif column not in read.columns:
            by = "the folder's name" if column in read.partition else "missing"
        elif column in own:
            by = "but for case, blanks, _ and -"
        elif read.format == "csv" and not settings.header:
            by = "its place"
        inverted = name in settings.inverted
        mapped.append({"name": name, "column": own.get(column, column), "by": by, "inverted": inverted})
    used = {*wanted.values(), *settings.where, settings.as_of.removeprefix("column:")}
    return {"mapped": mapped, "unused": [name for name in read.columns if name not in used]}


def said(export: Export, settings: ExportSettings) -> dict[str, list[dict[str, Any]]]:
    """Return the raw tokens of each channel, the most frequent first, each with its count and what it says."""
    words = dict(zip(FIELDS, words_of(settings), strict=True))
    found = {}
    for channel, counter in export.tokens.items():
        tokens = counter.most_common(_TOKENS)
        means = words[channel].of_each(pa.array([token for token, _ in tokens], pa.string())).tolist()
        found[channel] = [
            {"token": token, "count": count, "says": "several" if token == cells.OTHERS else _SAYS[meaning]}
            for (token, count), meaning in zip(tokens, means, strict=True)
        ]
    return found


def warnings(export: Export, ids: Ids, settings: ExportSettings) -> Iterator[str]:
    """Yield what a person should look at before this export is sent: what is read without complaint and looks wrong."""
    columns = dict(zip(FIELDS, settings.columns.channels, strict=True))
    words = dict(zip(FIELDS, words_of(settings), strict=True))
    for channel, counter in export.tokens.items():
        blanks, denials = cells.blanks_and_denials(counter, words[channel])
        denials += blanks if words[channel].blank == DENIED else 0
        tokens = [token for token, count in counter.items() if count]
        if len(tokens) == 1 and counter.total() > _FEW:
            token = f"says {tokens[0]!r}" if tokens[0].strip() else "is blank"
            yield f"{channel}: column {columns[channel]!r} {token} in all {counter.total():,} rows"
        if not denials and counter.total():
            yield (
                f"{channel}: column {columns[channel]!r} never says no: whoever opted out cannot be told from whoever "
                "was not asked"
            )
    if export.from_the_future:
        column = settings.columns.consent_changed_at
        rows = "row has a time" if export.from_the_future == 1 else "rows have times"
        yield f"{column}: {export.from_the_future:,} {rows} in the future; they count as rows without a time"
    yield from _of_ids(export, ids, settings.columns.Client)
    if last := sum(count for reason, count in export.reasons.items() if reason.startswith(csv_piece.LAST_LINE[0])):
        files = "a file ends" if last == 1 else f"{last:,} files end"
        yield f"{files} without a newline: the last line may be cut short, and rows may be missing after it"
    if export.rejects > export.rows / 100:
        yield f"{export.rejects / export.rows:.1%} of the rows are rejects: {export.rejects:,} of {export.rows:,}"


def _of_ids(export: Export, ids: Ids, column: str) -> Iterator[str]:
    """Yield why the ids may be something else than the platform's."""
    outside = sum(count for reason, count in export.reasons.items() if reason == f"{column}: outside 1 to {LAST_ID}")
    if outside * 2 > export.rows:
        yield f"most ids are outside 1 to {LAST_ID}: column {column!r} may be of phones, cards or another system's ids"
    if len(ids) <= _FEW:
        return
    lowest, highest = int(ids[0]), int(ids[-1])
    if lowest == 1 and highest * 0.98 <= len(ids):
        yield f"the ids are nearly all of 1 to {highest:,}, as row numbers are: is {column!r} the client's id?"
    middle = ids[int(len(ids) * 0.005) : int(np.ceil(len(ids) * 0.995))]
    first, last = str(middle[0]), str(middle[-1])
    same = next((place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(last))
    sparse = len(middle) * 50 < int(middle[-1]) - int(middle[0]) + 1
    if len(first) == len(last) >= 8 and same and sparse:
        yield (
            f"nearly all ids have {len(first)} digits and begin with {first[:same]}, as phone numbers, cards or dates "
            f"do: is {column!r} the client's id?"
        )
