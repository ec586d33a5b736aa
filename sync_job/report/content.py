"""What a report says, section by section, for page and terminal alike: words, and tables of numbers.

Pure functions of summaries. How it is drawn is left to `page` and `terminal`, the pictures to `plots`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from sync_job.report import headline
from sync_job.report.counts import Summary
from sync_job.report.words import Words, capital

NIGHTS = 30  # of which the trend shows something
_OUTCOMES = ("delivered", "refused", "exhausted", "deferred")
_FATES = ("unchanged", "waiting", "held", "blocked", "forgotten")
# Lists are cut here: a broken export can have a reason, and a broken platform a Message, for each row.
_ROWS, _TEXT = 40, 300
Cell = str | int


@dataclass(frozen=True)
class Table:
    """A table: its first column says what a row is of; *total*: the last row sums up; *more*: rows left out."""

    caption: str
    head: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    total: bool = False
    more: int = 0

    @property
    def numbers(self) -> frozenset[int]:
        """The columns that hold nothing but numbers."""
        return frozenset(
            place for place in range(len(self.head)) if all(isinstance(row[place], int) for row in self.rows)
        )


@dataclass(frozen=True)
class Section:
    """A part of the report: lines of words, then tables.

    *said* is what a run or the platform said in its own words, which are English; *plot* names the picture.
    """

    name: str
    title: str
    lines: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plot: str = ""
    folded: bool = False


def sections(found: Summary, earlier: Sequence[Summary], words: Words) -> Iterator[Section]:
    """Yield the sections of a run's report; *earlier* are summaries of runs before it, the newest last."""
    yield flow(found, words)
    yield guarded(found, words)
    yield refusals(found, words)
    yield rejects(found, words)
    yield owed(found, words)
    yield changes(found, words)
    yield gone(found, words)
    yield speed(found, words)
    yield trend([*earlier, found], words)
    yield inputs(found, words)
    yield settings(found, words)


def channel(name: str, words: Words) -> str:
    """Return what people call a channel."""
    return words.named("channel", name)


def flow(found: Summary, words: Words) -> Section:
    """Return how rows became clients, clients changes, and changes outcomes: three sums that add up."""
    tables = []
    export, decisions = found.get("export"), found.get("decided")
    head = (words.label("what"), words.label("count"))
    if export:
        read = export["clients"] - export["in_rejects_only"]
        parts = [("readable", read), ("duplicates", export["duplicates"]), ("rejects", export["rejects"])]
        tables.append(_sum(words("flow_rows"), head, parts, ("rows_total", export["rows"]), words))
    if decisions:
        planned = decisions["planned"] - decisions["planned_unstated"]
        parts = [("planned_stated", planned), *((name, decisions[name]) for name in _FATES)]
        tables.append(_sum(words("flow_clients"), head, parts, ("clients_total", decisions["stated"]), words))
    ended = [(name, found["outcomes"][name]) for name in _OUTCOMES]
    tables.append(_sum(words("flow_changes"), head, ended, ("planned_total", found["planned"]), words))
    lines = []
    if export and export["in_rejects_only"]:
        lines.append(words("in_rejects_only", n=export["in_rejects_only"]))
    if export and export["conflicting"]:
        lines.append(words("conflicting", n=export["conflicting"]))
    if export and export.get("from_the_future"):
        lines.append(words("from_the_future", n=export["from_the_future"]))
    if export and export.get("others"):
        lines.append(words("others", n=export["others"]))
    if decisions:
        apart = found["planned"] - (decisions["planned"] - decisions["planned_unstated"])
        if apart:
            lines.append(words("planned_apart" if apart > 0 else "planned_less", n=abs(apart)))
    return Section("flow", words("flow"), lines, tables=tables, plot="flow")


def changes(found: Summary, words: Words) -> Section:
    """Return the transition matrix of each channel, and what of it are grants and revocations."""
    matrices: Mapping[str, Any] = found.get("transitions") or {}
    if not any(count for matrix in matrices.values() for to in matrix.values() for count in to.values()):
        return Section("changes", words("changes"), [words("no_changes")])
    asked: Mapping[str, Any] = found.get("grants") or {}
    sums: list[tuple[Cell, ...]] = []
    cells: list[tuple[Cell, ...]] = []
    for name, matrix in matrices.items():
        known, denied, allowed = matrix["nothing"], matrix["denied"], matrix["allowed"]
        sums.append(
            (
                channel(name, words),
                known["allowed"],
                denied["allowed"],
                allowed["denied"],
                known["denied"],
                denied["denied"] + allowed["allowed"],
            )
        )
        for was, to in matrix.items():
            cells.append((channel(name, words), words(was), to["denied"], to["allowed"]))
    kinds = ("channel", "new_grants", "re_grants", "revocations", "new_denials", "repeated")
    tables = [
        Table(words("changes_kinds"), tuple(map(words.label, kinds)), sums),
        Table(
            words("changes_matrix"),
            (words.label("channel"), words.label("was"), words.label("to_denied"), words.label("to_allowed")),
            cells,
        ),
    ]
    lines = [words("asked_for", new=asked["new"], re=asked["re"])] if asked else []
    return Section("changes", words("changes"), lines, tables=tables, plot="transitions")


def refusals(found: Summary, words: Words) -> Section:
    """Return what the platform said no to, by ErrorCode and Message, against the run before."""
    codes = [one for one in found["codes"] if one["outcome"] != "delivered"]
    lost = found.get("gone") or []
    if not codes and not lost:
        return Section("refusals", words("refusals"), [words("no_refusals")])
    head = tuple(map(words.label, ("error_code", "message", "http", "ended", "count", "since")))
    rows: list[tuple[Cell, ...]] = [
        (*_answer(one, words), int(one["count"]), words(one["since"]) if one.get("since") else "") for one in codes
    ]
    lines = [words("looks_not_found", code=str(code)) for code in headline.looks_not_found(found)]
    tables = [_cut(words("refusals_now"), head, rows)] if rows else []
    if lost:
        tables.append(_cut(words("refusals_gone"), head[:4], [_answer(one, words) for one in lost]))
    return Section("refusals", words("refusals"), lines, tables=tables)


def rejects(found: Summary, words: Words) -> Section:
    """Return the rows that nobody could read, by reason."""
    export: Mapping[str, Any] = found.get("export") or {}
    if not export.get("rejects"):
        return Section("rejects", words("rejects_title"), [words("no_rejects")])
    rows: list[tuple[Cell, ...]] = [(_reason(why, words), count) for why, count in export["reasons"].items()]
    table = _cut(words("rejects_reasons"), (words.label("reason"), words.label("count")), rows)
    return Section("rejects", words("rejects_title"), [words("rejects_note", n=export["rejects"])], tables=[table])


def owed(found: Summary, words: Words) -> Section:
    """Return what people who withdrew are owed: its ages, and how that compares with target and limit."""
    said: Mapping[str, Any] = found.get("withdrawals") or {}
    lines = []
    if said.get("ambiguous"):
        lines.append(words("ambiguous", n=said["ambiguous"]))
    if said.get("last_acknowledged") is not None:
        lines.append(words("last_acknowledged", at=words.time(said["last_acknowledged"])))
    if said.get("target_h") is not None:
        limit = said.get("limit_h")
        target = words.hours(said["target_h"])
        lines.append(
            words("target_statutory", target=target)
            if limit is None
            else words("target_limit", target=target, limit=words.hours(limit))
        )
    if not said.get("open") and not said.get("parked"):
        return Section("owed", words("owed"), [words("nothing_owed"), *lines])
    if said.get("oldest_started"):
        lines.append(words("oldest", at=words.time(said["oldest_started"])))
    if said.get("first_limit"):
        lines.append(words("first_limit", at=words.time(said["first_limit"])))
    counts: list[tuple[Cell, ...]] = [
        (words.label(f"owed_{name}"), int(said.get(name) or 0))
        for name in ("open", "past_target", "past_limit", "parked")
    ]
    head = (words.label("what"), words.label("clients"))
    tables = [Table(words("owed_counts"), head, counts)]
    if ages := said.get("ages"):
        tables.append(
            _sum_of(words("owed_ages"), (words.label("age"), words.label("clients")), _ages(ages, words), words)
        )
    if by_source := said.get("by_source"):
        rows: list[tuple[Cell, ...]] = [
            (capital(words.named("source", name)), count) for name, count in by_source.items()
        ]
        tables.append(_cut(words("owed_sources"), head, rows))
    return Section("owed", words("owed"), lines, tables=tables, plot="ages")


def guarded(found: Summary, words: Words) -> Section:
    """Return what waits for a person and what an opt-out stopped, with the numbers of the guards."""
    decisions: Mapping[str, Any] = found.get("decided") or {}
    lines, tables = [], []
    for one in found.get("doubts") or ():
        lines.append(words.named("doubt", one["doubt"], one["why"]))
    for one in found.get("approvals") or ():
        said = {name: bearable(one[name]) for name in ("run", "by", "reason")}
        lines.append(words("approved", n=one["count"], **said))
    if trips := found.get("guards"):
        rows: list[tuple[Cell, ...]] = []
        for one in trips:
            name = capital(words.named("guard", one["guard"]))
            of = channel(one["channel"], words) if one["channel"] else words("all_channels")
            rows.append((name, of, int(one["count"]), int(one["at_most"])))
        tables.append(_cut(words("guards"), tuple(map(words.label, ("guard", "channel", "count", "at_most"))), rows))
    if decisions.get("held") or decisions.get("blocked"):
        rows = [
            (channel(name, words), decisions["held_channels"][name], decisions["blocked_channels"][name])
            for name in decisions["held_channels"]
        ]
        head = (words.label("channel"), words.label("held"), words.label("blocked"))
        tables.append(Table(words("held_channels"), head, rows))
        if decisions["held"]:
            lines.append(words("held_note", n=decisions["held"]))
        if decisions["blocked"]:
            lines.append(words("blocked_note", n=decisions["blocked"]))
    why = [found["restrict_only"]] if found.get("restrict_only") and not found.get("doubts") else []
    lines += [words("grants_nothing")] * bool(why)
    return Section("guarded", words("guarded"), lines or [words("no_guarded")] * (not tables), why, tables)


def gone(found: Summary, words: Words) -> Section:
    """Return the clients of whom the export says nothing any more, and those it never named before."""
    decisions, asked = found.get("decided"), found.get("grants")
    if not decisions:
        return Section("gone", words("gone"), [words("no_export")])
    rows: list[tuple[Cell, ...]] = [(words.label("absent"), int(decisions["absent"]))]
    if asked:
        rows += [(words.label("lost"), int(asked["lost"])), (words.label("unknown"), int(asked["unknown"]))]
    return Section(
        "gone", words("gone"), tables=[Table(words("gone_counts"), (words.label("what"), words.label("clients")), rows)]
    )


def speed(found: Summary, words: Words) -> Section:
    """Return how the platform did, and where the time went."""
    took: list[tuple[Cell, ...]] = [
        (capital(words.named("stage", name)), words.span(s)) for name, s in found["seconds"].items()
    ]
    took.append((words.label("total"), words.span(max(0.0, found["ended"] - found["started"]))))
    stages = Table(words("stages"), (words.label("stage"), words.label("time")), took, total=True)
    lines = [words("memory", n=int(found["memory_mb"]))] if found.get("memory_mb") else []
    if not found.get("requests"):
        return Section("speed", words("speed"), [words("no_requests"), *lines], tables=[stages])
    rows: list[tuple[Cell, ...]] = [
        (words.label("requests"), int(found["requests"])),
        (
            words.label("requests_per_s"),
            words.number(found["requests_per_s"], 1 if found["requests_per_s"] < 10 else 0),
        ),
    ]
    if found.get("retries") is not None:
        rows.append((words.label("retries"), int(found["retries"])))
    if one := found.get("delivery"):
        rows += [
            (words.label("round_trip"), words.span(one["round_trip_s"])),
            (words.label("most_in_flight"), int(one["most_in_flight"])),
            (words.label("limit_end"), words.number(one["limit"], 1)),
            *((words.label(name), int(one[name])) for name in ("turned_away", "pauses", "outages", "once_more")),
        ]
    if trips := found.get("round_trips"):
        for share in (0.5, 0.95, 0.99):
            if (bound := quantile(trips, share)) is not None:
                key = "answered_above" if bound == float("inf") else "answered_within"
                within = words.span(trips["bounds_s"][-1] if bound == float("inf") else bound)
                rows.append((words.label(key, share=words.share(share)), within))
    tables = [Table(words("sending"), (words.label("what"), words.label("value")), rows), stages]
    return Section("speed", words("speed"), lines, tables=tables, plot="throughput")


def quantile(trips: Mapping[str, Any], share: float) -> float | None:
    """Return the bound within which that *share* of answers came, infinite above the last; none without answers."""
    counts = trips["counts"]
    total, seen = sum(counts), 0
    for bound, count in zip((*trips["bounds_s"], float("inf")), counts, strict=True):
        seen += count
        if total and seen >= share * total:
            return float(bound)
    return None


def inputs(found: Summary, words: Words) -> Section:
    """Return what was read: each file with its digest, and what the reader took it for."""
    export = found.get("export")
    if not export:
        return Section("inputs", words("inputs"), [words("no_export")])
    lines = []
    if export.get("as_of") is None:
        lines.append(words("age_unchecked") if found.get("as_of") == "none" else words("age_unknown"))
    else:
        age = max(0.0, found["started"] - export["as_of"])
        lines.append(words("age_known", at=words.time(export["as_of"]), age=words.span(age)))
    lines += [words("missing_column", name=name) for name in export.get("missing_columns") or ()]
    if left := export.get("left_out"):
        lines.append(words("left_out", n=len(left)))
    tables = [_file(one, words) for one in (export.get("inputs") or ())[:5]]
    if (more := len(export.get("inputs") or ()) - 5) > 0:
        lines.append(words("more_files", n=more))
    if mapped := export.get("id_map"):
        rows: list[tuple[Cell, ...]] = [
            (words.label("rows"), int(mapped["rows"])),
            (words.label("digest"), mapped["sha256"]),
        ]
        name = PurePath(mapped["path"]).name
        tables.append(Table(words("id_map", name=name), (words.label("what"), words.label("value")), rows))
    return Section("inputs", words("inputs"), lines, tables=tables)


def settings(found: Summary, words: Words) -> Section:
    """Return all settings of the run, secrets masked, as the configuration file names them."""
    rows = [(key, bearable(value)) for key, value in _flat(found.get("settings") or {})]
    if not rows:
        return Section("settings", words("settings"), [words("no_settings")], folded=True)
    table = _cut(words("settings_all"), (words.label("key"), words.label("value")), list(rows), 400)
    return Section("settings", words("settings"), tables=[table], folded=True)


def trend(summaries: Sequence[Summary], words: Words) -> Section:
    """Return the last nights, the newest last, and apart from them what was sent between."""
    nights = [one for one in summaries if one["kind"] not in headline.DRAINS][-NIGHTS:]
    drains = [one for one in summaries if one["kind"] in headline.DRAINS][-NIGHTS:]
    head = ("run", "state", "delivered", "refused", "exhausted", "deferred", "rejects", "held", "owing", "time")
    tables = []
    if nights:
        table = Table(
            words("nights", n=len(nights)), tuple(map(words.label, head)), [_night(one, words) for one in nights]
        )
        tables.append(table)
    if drains:
        rows: list[tuple[Cell, ...]] = [
            (
                _short(one, words),
                kind(one, words),
                words(headline.state(one)),
                *(int(one["outcomes"][name]) for name in _OUTCOMES),
            )
            for one in drains
        ]
        names = ("run", "kind", "state", *_OUTCOMES)
        tables.append(Table(words("drains", n=len(drains)), tuple(map(words.label, names)), rows))
    return Section("trend", words("trend"), tables=tables, plot="trend")


def zone(found: Summary) -> str:
    """Return the time zone in which people read the times of a run."""
    run: Mapping[str, Any] = (found.get("settings") or {}).get("run") or {}
    return str(run.get("timezone") or "UTC")


def when(found: Summary, words: Words) -> str:
    """Return the number of a run, and when it began."""
    return f"{_number(found)} · {words.time(found['started'])}"


def _short(found: Summary, words: Words) -> str:
    return f"{_number(found)} · {words.date(found['started'])}".replace(" ", "\N{NO-BREAK SPACE}")


def _number(found: Summary) -> str:
    return str(found["run"]).split("-")[0].lstrip("0") or "0"


def kind(found: Summary, words: Words) -> str:
    """Return what kind of run it was."""
    return words.named("kind", found["kind"])


def _night(one: Summary, words: Words) -> tuple[Cell, ...]:
    export, decisions, said = one.get("export") or {}, one.get("decided") or {}, one.get("withdrawals") or {}
    return (
        _short(one, words),
        words(headline.state(one)),
        *(int(one["outcomes"][name]) for name in _OUTCOMES),
        int(export.get("rejects") or 0),
        int(decisions.get("held") or 0),
        int(said.get("open") or 0),
        words.span(max(0.0, one["ended"] - one["started"])),
    )


def _sum(
    caption: str, head: tuple[str, str], parts: Sequence[tuple[str, int]], whole: tuple[str, int], words: Words
) -> Table:
    rows: list[tuple[Cell, ...]] = [(words.label(name), int(count)) for name, count in (*parts, whole)]
    return Table(caption, head, rows, total=True)


def _sum_of(caption: str, head: tuple[str, str], rows: list[tuple[str, int]], words: Words) -> Table:
    whole = (words.label("total"), sum(count for _, count in rows))
    return Table(caption, head, [*rows, whole], total=True)


def _ages(ages: Sequence[Mapping[str, Any]], words: Words) -> list[tuple[str, int]]:
    rows, after = [], 0.0
    for one in ages:
        upto = one["upto_h"]
        if upto is None:
            name = words.label("age_over", after=words.hours(after))
        else:
            name = words.label("age_upto", upto=words.hours(upto))
            after = upto
        rows.append((name, int(one["open"])))
    return rows


def _answer(one: Mapping[str, Any], words: Words) -> tuple[str, ...]:
    code = "–" if one["code"] is None else str(one["code"])
    status = "–" if one["status"] is None else str(one["status"])
    return code, bearable(one["message"]) or words("no_message"), status, words(one["outcome"])


def _reason(why: str, words: Words) -> str:
    """Return a reason for a reject: the column as the export calls it, and the reason in the page's language."""
    column, colon, reason = why.rpartition(": ")
    return bearable(f"{column}{colon}{words.named('reason', reason)}")


def _file(one: Mapping[str, Any], words: Words) -> Table:
    """Return a file of an export: what the reader saw."""
    rows: list[tuple[Cell, ...]] = [
        (words.label("rows"), int(one["rows"])),
        (words.label("size"), int(one["size_bytes"])),
    ]
    rows += [
        (words.label(name), repr(one[name]) if name == "delimiter" else bearable(one[name]))
        for name in ("format", "compression", "encoding", "delimiter", "newline", "sheet")
        if one.get(name)
    ]
    rows += [(words.label(name), int(one[name])) for name in ("comments", "repeated_headers") if one.get(name)]
    if one.get("columns"):
        rows.append((words.label("columns"), bearable(", ".join(one["columns"]))))
    if one.get("sha256"):
        rows.append((words.label("digest"), one["sha256"]))
    return Table(bearable(PurePath(one["path"]).name), (words.label("what"), words.label("value")), rows)


def _flat(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def bearable(value: Any, most: int = _TEXT) -> str:
    """Return a value as text, cut where it is longer than anybody reads."""
    if isinstance(value, bool):
        value = str(value).lower()
    text = str(value) if not isinstance(value, list | tuple) else ", ".join(map(str, value))
    return text if len(text) <= most else f"{text[:most]}…"


def _cut(caption: str, head: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], most: int = _ROWS) -> Table:
    return Table(caption, head, list(rows[:most]), more=max(0, len(rows) - most))
