"""A run as Prometheus metrics: a pure function of its summary and of the text that was there before it.

Values are those of the last run of each kind; `docs/metrics.md` tells them all. What must outlive a run, such as when
the last one succeeded, is taken over from the text before. Nothing in it tells one client from another.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from sync_job.errors import Exit
from sync_job.report.counts import Summary

PREFIX = "consent_sync_"
SUCCESS = frozenset({Exit.OK, Exit.ATTENTION})  # it came to its end; 1 is about single rows
MOST_ANSWERS = 20  # a platform may answer with any number of ErrorCodes, and each would be a series for ever
OTHER = "other"
_BYTES_A_MB = 1 << 20

Values = Iterable[tuple[tuple[str, ...], float]]
_Found = dict[str, list[Sample]]


def _at(*path: str, times: float = 1.0) -> Callable[[Summary], Values]:
    """Return what takes a number out of a summary; nothing where it is not there."""

    def values(summary: Summary) -> Values:
        found = _get(summary, path)
        return [((), found * times)] if isinstance(found, int | float) else []

    return values


def _each(*path: str) -> Callable[[Summary], Values]:
    """Return what takes a number for each name."""
    return lambda summary: [((name,), value) for name, value in (_get(summary, path) or {}).items()]


def _get(summary: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    place: Any = summary
    for name in path:
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def _clients(summary: Summary) -> Values:
    """Return how the clients of the export were decided: each once."""
    found = summary.get("decided")
    if not found:
        return []
    stated = found["planned"] - found.get("planned_unstated", 0)
    others = ("forgotten", "waiting", "blocked", "held", "unchanged")
    return [(("planned",), stated), *(((name,), found[name]) for name in others if name in found)]


def _grants(summary: Summary) -> Values:
    found = summary.get("grants") or {}
    return [((which,), found[which]) for which in ("new", "re") if which in found]


def _transitions(summary: Summary) -> Values:
    return [
        ((channel, was, sent), count)
        for channel, matrix in (summary.get("transitions") or {}).items()
        for was, row in matrix.items()
        for sent, count in row.items()
    ]


def _guards(summary: Summary) -> Values:
    tripped = {(str(one["guard"]), str(one.get("channel") or "")) for one in summary.get("guards") or ()}
    return [(one, 1.0) for one in sorted(tripped)]


def _undone(summary: Summary) -> Values:
    """Return how many rows ended refused or exhausted by what was answered: the most frequent, and the rest as one."""
    counts: dict[tuple[str, ...], int] = {}
    for one in _no(summary):
        key = (one["outcome"], *("" if one[name] is None else str(one[name]) for name in ("status", "code")))
        counts[key] = counts.get(key, 0) + one["count"]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest: dict[tuple[str, ...], int] = {}
    for (outcome, *_), count in ordered[MOST_ANSWERS:]:
        rest[outcome, OTHER, OTHER] = rest.get((outcome, OTHER, OTHER), 0) + count
    return [*ordered[:MOST_ANSWERS], *rest.items()]


def _new_answers(summary: Summary) -> Values:
    return [((), sum(one.get("since") == "new" for one in _no(summary)))] if "codes" in summary else []


def _no(summary: Summary) -> Iterator[Mapping[str, Any]]:
    return (one for one in summary.get("codes") or () if one["outcome"] in ("refused", "exhausted"))


def _restricted(summary: Summary) -> Values:
    return [((), float(bool(summary.get("restrict_only"))))]


def _version(summary: Summary) -> Values:
    return [((str(summary.get("version") or version("consent-sync")),), 1.0)]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its labels stand beside `target`, and beside `kind` unless it is *of_target*.

    *of* takes its values from a summary; one without it is about the end of runs, also of those without a report.
    """

    name: str
    says: str
    of: Callable[[Summary], Values] | None = None
    labels: tuple[str, ...] = ()
    type: Literal["gauge", "histogram"] = "gauge"
    of_target: bool = False

    @property
    def full_name(self) -> str:
        """Its name as Prometheus knows it."""
        return PREFIX + self.name

    def values(self, summary: Summary) -> Values:
        """Return its values, each with those of its own labels."""
        return self.of(summary) if self.of else []

    def label_names(self) -> tuple[str, ...]:
        """Return all its labels."""
        return ("target", *(() if self.of_target else ("kind",)), *self.labels)


_SUCCESS = Family("last_success_timestamp_seconds", "When the last success ended, which is exit 0 or 1; 0 for never.")
_END = Family("last_end_timestamp_seconds", "When the last command ended, also one without a report.")
_EXIT = Family("last_exit_code", "The exit code of the last command.")
_DIED = Family("run_died", "Whether the last run died before its end, and another reported it.")
_READ = tuple(
    Family(f"export_{which}_read_timestamp_seconds", f"When the last export was read {which}.", of_target=True)
    for which in ("first", "last")
)
_ROUND_TRIP = Family("round_trip_seconds", "How long good answers took, in the last run alone.", type="histogram")
_OWED = tuple(
    Family(name, says, _at("withdrawals", key), of_target=True)
    for name, key, says in (
        ("obligations_open", "open", "Clients who are owed a denial, but for parked ones."),
        ("obligations_parked", "parked", "Clients who are owed a denial, and whom the platform does not know."),
        ("obligations_past_target", "past_target", "Open obligations that were older than the target."),
        ("obligations_past_limit", "past_limit", "Open obligations that were past their limit."),
        ("obligation_oldest_timestamp_seconds", "oldest_started", "Since when the oldest open obligation is owed."),
        ("obligation_first_limit_timestamp_seconds", "first_limit", "When the first open obligation is at its limit."),
        ("inbox_lists", "lists_waiting", "Lists in the inbox that are not taken into the ledger yet."),
        ("inbox_clients", "clients_waiting", "Clients in those lists who are owed a denial; open counts them too."),
        (
            "obligation_last_acknowledged_timestamp_seconds",
            "last_acknowledged",
            "When an opt-out was acknowledged last.",
        ),
    )
)
# The order is that of the text, and of docs/metrics.md.
FAMILIES = (
    _SUCCESS,
    _END,
    _EXIT,
    Family("build_info", "1, with the version that wrote last.", _version, ("version",), of_target=True),
    *_OWED,
    Family(
        "obligation_target_seconds",
        "Within what an opt-out should be acknowledged, [withdrawals] target_h.",
        _at("withdrawals", "target_h", times=3600),
        of_target=True,
    ),
    Family(
        "obligation_limit_seconds",
        "After what one that is not is an alarm, [withdrawals] limit_h; none with a statutory profile.",
        _at("withdrawals", "limit_h", times=3600),
        of_target=True,
    ),
    Family("run_start_timestamp_seconds", "When the last run with a report began.", _at("started")),
    Family("run_end_timestamp_seconds", "When the last run with a report ended.", _at("ended")),
    _DIED,
    Family("run_restricted", "Whether the last run might grant nothing.", _restricted),
    Family("run_stage_duration_seconds", "How long each stage of the last run took.", _each("seconds"), ("stage",)),
    Family("run_memory_max_bytes", "The most memory the last run had.", _at("memory_mb", times=_BYTES_A_MB)),
    Family("export_rows", "Rows of the export.", _at("export", "rows")),
    Family("export_clients", "Clients of the export.", _at("export", "clients")),
    Family("export_duplicates", "Rows of the export beyond the first of each client.", _at("export", "duplicates")),
    Family("export_rejects", "Rows of the export that could not be read.", _at("export", "rejects")),
    Family("export_as_of_timestamp_seconds", "When the export was made, where it is known.", _at("export", "as_of")),
    *_READ,
    Family("clients", "Clients of the export by what was decided, each once.", _clients, ("decision",)),
    Family("clients_absent", "Known clients whom a full export no longer has.", _at("decided", "absent")),
    Family("clients_lost", "Clients of whom nothing is stated where they are allowed.", _at("grants", "lost")),
    Family("clients_unknown", "Clients of the export of whom nothing was known.", _at("grants", "unknown")),
    Family(
        "clients_held",
        "Clients of whom something the export says is held.",
        _each("decided", "held_channels"),
        ("channel",),
    ),
    Family("clients_blocked", "Clients overruled by an opt-out.", _each("decided", "blocked_channels"), ("channel",)),
    Family("guard_tripped", "1 for each guard that tripped.", _guards, ("guard", "channel")),
    Family("wanted_grants", "Clients whom the export wants allowed, before any guard.", _grants, ("grant",)),
    Family(
        "wanted_revocations",
        "Clients whom the export wants denied what they are allowed, before any guard.",
        _each("grants", "revocations"),
        ("channel",),
    ),
    Family(
        "planned_changes",
        "Clients of the export's plan, by what the platform holds and what is sent.",
        _transitions,
        ("channel", "was", "sent"),
    ),
    Family("planned_clients", "Clients of the export's plan, by their lane.", _each("lanes"), ("lane",)),
    Family("outcomes", "Planned clients by how each ended.", _each("outcomes"), ("outcome",)),
    Family(
        "undone_rows",
        "Rows refused or exhausted, by status and ErrorCode of the last answer; the most frequent, the rest together.",
        _undone,
        ("outcome", "status", "code"),
    ),
    Family("undone_answers_new", "Answers of refused or exhausted rows that the run before had not.", _new_answers),
    Family("requests", "Requests of the last run.", _at("requests")),
    Family("retries", "Requests beyond the first of each row.", _at("retries")),
    Family("requests_turned_away", "Requests that were answered 429 or 503.", _at("delivery", "turned_away")),
    Family("request_pauses", "Pauses that the platform asked for.", _at("delivery", "pauses")),
    Family("request_outages", "Times that the platform was gone.", _at("delivery", "outages")),
    Family("request_limit", "How many requests in flight did well, at the end.", _at("delivery", "limit")),
    Family("requests_in_flight_max", "The most requests in flight at once.", _at("delivery", "most_in_flight")),
    _ROUND_TRIP,
)
_NAMES = {one.full_name for one in FAMILIES}


def reported(summary: Summary, before: str, *, read: tuple[float, float] | None = None, died: bool = False) -> str:
    """Return the text after a run with a report; *before* is the text until then.

    Values of other kinds and targets stay. *read* is when the last export was read first and last, by any run. A run
    that *died* was reported by another, and was no success.
    """
    found = _read(before)
    target, kind = str(summary["target"]), str(summary["kind"])
    for family in FAMILIES:
        if family.of:
            _put(found, family, target, kind, family.values(summary))
    _put(found, _DIED, target, kind, [((), float(died))])
    for family, at in zip(_READ, read or (), strict=False):
        _put(found, family, target, kind, [((), at)])
    _round_trips(found, summary, target, kind)
    _end(found, target, kind, Exit(summary["exit"]), float(summary["ended"]), came_through=not died)
    return _text(found)


def ended(target: str, kind: str, code: Exit, at: float, before: str) -> str:
    """Return the text after a command of this *kind* ended: when, and how. All else is as the last report had it."""
    found = _read(before)
    _put(found, _family("build_info"), target, kind, _version({}))
    _end(found, target, kind, code, at)
    return _text(found)


def owed(target: str, withdrawals: Summary, before: str) -> str:
    """Return the text when it is known what is owed to people who withdrew, by something that made no report."""
    found = _read(before)
    for family in _OWED:
        _put(found, family, target, "", family.values({"withdrawals": withdrawals}))
    return _text(found)


def _end(found: _Found, target: str, kind: str, code: Exit, at: float, *, came_through: bool = True) -> None:
    was = [one.value for one in found[_SUCCESS.full_name] if _is(one, _own(_SUCCESS, target, kind))]
    success = at if came_through and code in SUCCESS else (was or [0.0])[0]
    for family, value in ((_SUCCESS, success), (_END, at), (_EXIT, float(code))):
        _put(found, family, target, kind, [((), value)])


def _round_trips(found: _Found, summary: Summary, target: str, kind: str) -> None:
    _put(found, _ROUND_TRIP, target, kind, [])
    trips = summary.get("round_trips")
    if not trips:
        return
    family = HistogramMetricFamily(_ROUND_TRIP.full_name, _ROUND_TRIP.says, labels=_ROUND_TRIP.label_names())
    total, buckets = 0, []
    for bound, count in zip((*map(float, trips["bounds_s"]), "+Inf"), trips["counts"], strict=True):
        total += count
        buckets.append((str(bound), float(total)))
    family.add_metric([target, kind], buckets, trips["sum_s"])
    found[_ROUND_TRIP.full_name] += family.samples


def _family(name: str) -> Family:
    return next(one for one in FAMILIES if one.name == name)


def _own(family: Family, target: str, kind: str) -> dict[str, str]:
    """Return the labels that its values have in common which a run of this kind, of this target, writes."""
    return {"target": target} if family.of_target else {"target": target, "kind": kind}


def _is(sample: Sample, labels: Mapping[str, str]) -> bool:
    return labels.items() <= sample.labels.items()


def _put(found: _Found, family: Family, target: str, kind: str, values: Values) -> None:
    """Put *values* into the place of those that this kind of run of this target had."""
    own = _own(family, target, kind)
    stay = [one for one in found[family.full_name] if not _is(one, own)]
    new = [
        Sample(family.full_name, own | dict(zip(family.labels, labels, strict=True)), float(value))
        for labels, value in values
    ]
    found[family.full_name] = stay + new


def _read(text: str) -> _Found:
    """Return the samples in a text of ours, by family; none of one that cannot be read, or that is not ours."""
    found: _Found = {name: [] for name in _NAMES}
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, LookupError, TypeError, AttributeError):
        return found
    for family in families:
        if family.name in found:
            found[family.name] += family.samples
    return found


class _Collected(Collector):
    def __init__(self, found: _Found) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            one = Metric(family.full_name, family.says, family.type)
            one.samples = self._found[family.full_name]
            yield one


def _text(found: _Found) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(found))
    return generate_latest(registry).decode("utf-8")
