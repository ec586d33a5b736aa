"""Random summaries of runs whose counts add up, as any run might leave them, for what is made of summaries."""

import random
from collections.abc import Callable
from typing import Any

from sync_job.consent.channels import CHANNELS
from sync_job.errors import Exit
from sync_job.report import counts
from sync_job.report.counts import Summary

START = 1_795_000_000.0
KINDS = ("run", "run", "run", "init", "drain", "opt-out", "backfill", "undo", "apply", "forget")
EVIL = "<script>alert('no')</script>"
_GUARDS = ("re-grants", "new grants", "revocations", "changed clients", "unknown ids", "lost consents", "shrinkage")
_DOUBTS = (
    "older than the last one",
    "too old",
    "undated",
    "seen before",
    "missing column",
    "restored state",
    "rejects",
)
_MESSAGES = ("Клиент не найден", "client not found", EVIL, "", "Слишком много", "x" * 5000, "{n} {% if %}", "\x1b[31m")
_REASONS = ("SmsConsent: unknown token", "CustomerId: no id", f"{EVIL}: not a whole number", "5 fields, not 9")


def summary(rng: random.Random, number: int = 7, *, most: int = 5000) -> Summary:
    """Return the summary of a run; the same one from the same *rng*."""

    def some(ceiling: int = most) -> int:
        return rng.choice((0, 0, 1, 2, 5, rng.randint(0, ceiling)))

    kind = rng.choice(KINDS)
    export = _export(rng, some) if kind in ("run", "init", "backfill", "undo") and rng.random() < 0.9 else None
    ended = {name: some() * (kind != "init") for name in ("delivered", "refused", "exhausted", "deferred")}
    planned = sum(ended.values())
    decided = None
    if export:
        fates = {name: some() for name in ("forgotten", "waiting", "blocked", "held", "unchanged")}
        unstated = rng.randint(0, min(3, planned))
        decided = {
            **fates,
            "planned": planned,
            "planned_unstated": unstated,
            "stated": planned - unstated + sum(fates.values()),
            "absent": some(),
            "held_channels": {name: some() for name in CHANNELS},
            "blocked_channels": {name: some() for name in CHANNELS},
        }
        export["clients"] = decided["stated"]
        export["in_rejects_only"] = min(export["in_rejects_only"], export["clients"])
        export["rows"] = export["clients"] - export["in_rejects_only"] + export["duplicates"] + export["rejects"]
    began = START + 86400 * number + rng.random() * 3600
    asked = {
        "new": some(),
        "re": some(),
        "revocations": {name: some() for name in CHANNELS},
        "lost": some(),
        "unknown": some(),
    }
    made = {"clients": some(), "state": "/srv/state", "denials_due": some(), "grants_due": some()}
    found: Summary = {
        "kind": kind,
        "run": f"{number:04}-20261124T021500Z",
        "target": f"https://platform.example operator {rng.randint(1, 9)}",
        "started": began,
        "ended": began + rng.choice((0.0, 0.4, 95.0, 20_000.0)),
        "exit": int(rng.choice(list(Exit))),
        "reasons": rng.sample(["it died", EVIL, "25 rows could not be read"], rng.randint(0, 3)),
        "restrict_only": rng.choice(("", "", "asked for (--restrict-only)")),
        "doubts": [{"doubt": one, "why": f"{one} {EVIL}"} for one in rng.sample(_DOUBTS, rng.choice((0, 0, 1, 3)))],
        "guards": [
            {"guard": one, "channel": rng.choice(("", *CHANNELS)), "count": some() + 1, "at_most": some()}
            for one in rng.sample(_GUARDS, rng.choice((0, 0, 2)))
        ],
        "approvals": [{"count": some(), "what": "grants", "run": "0003-x", "by": EVIL, "reason": "a sale"}]
        * rng.choice((0, 0, 1)),
        "approvable": rng.choice(({}, {"grants": some(), "revocations": some(), "clients": some()})),
        "grants": asked if export else None,
        "withdrawals": _withdrawals(rng, some, began),
        "made": made if kind == "init" and export else None,
        "as_of": rng.choice(("none", "mtime")),
        "export": export,
        "decided": decided,
        "planned": planned,
        "outcomes": ended,
        "legs": [{"leg": 1, **ended}] if planned else [],
        "requests": planned + some() if planned else 0,
        "requests_per_s": round(rng.random() * 500, 1),
        "delivery": None,
        "codes": [
            {"outcome": name, "status": rng.choice((200, 500, None)), "code": rng.choice((0, 8, None))}
            | {"message": rng.choice(_MESSAGES), "count": count}
            | ({"since": rng.choice(("new", "known"))} if name in ("refused", "exhausted") else {})
            for name, count in ended.items()
            if count
        ],
        "seconds": {"read": 1.25, "decide": 0.4, "deliver": 61.0, "report": 0.01},
        "folder": "/srv/reports/7",
    }
    if rng.random() < 0.8:
        found["transitions"] = {
            channel: {was: {"denied": some(), "allowed": some()} for was in ("nothing", "denied", "allowed")}
            for channel in CHANNELS
        }
    if rng.random() < 0.7:  # of a version that says more
        found |= _said_today(rng, planned, some)
    counts.check(found)
    return found


def night(**said: Any) -> Summary:
    """Return the summary of a night that delivered three changes of a thousand clients, with what is *said* instead."""
    rng = random.Random(1)
    while (found := summary(rng))["kind"] != "run" or not found["export"]:
        pass
    decided = found["decided"] | {"planned": 3, "planned_unstated": 0, "stated": 1000, "unchanged": 997}
    decided |= dict.fromkeys(("forgotten", "waiting", "blocked", "held", "absent"), 0)
    export = found["export"] | {"rows": 1000, "clients": 1000, "in_rejects_only": 0, "duplicates": 0, "rejects": 0}
    export |= {"reasons": {}, "as_of": None, "digest": "d7", "conflicting": 0, "missing_columns": []}
    owed = {"open": 0, "parked": 0, "past_target": 0, "past_limit": 0, "last_acknowledged": None}
    quiet: Summary = {
        "exit": 0,
        "reasons": [],
        "restrict_only": "",
        "doubts": [],
        "guards": [],
        "approvals": [],
        "approvable": {},
        "export": export,
        "decided": decided,
        "planned": 3,
        "outcomes": {"delivered": 3, "refused": 0, "exhausted": 0, "deferred": 0},
        "codes": [],
        "gone": [],
        "withdrawals": found["withdrawals"] | owed,
        "settings": {"run": {"timezone": "UTC"}, "endpoint": {"not_found_codes": []}},
    }
    return found | quiet | said


def _export(rng: random.Random, some: Callable[..., int]) -> Summary:
    rejects = some()
    file = {
        "path": f"/srv/crm/{EVIL}.csv",
        "format": "csv",
        "size_bytes": 72940,
        "sha256": "2a" * 32,
        "rows": some(),
        "compression": "",
        "encoding": "windows-1251",
        "delimiter": ";",
        "newline": "CRLF",
        "comments": 0,
        "repeated_headers": 1,
        "sheet": "",
        "columns": ["CustomerId", EVIL],
        "partition": {},
    }
    return {
        "rows": 0,
        "clients": 0,
        "in_rejects_only": some(3),
        "duplicates": some(),
        "conflicting": some(),
        "rejects": rejects,
        "others": some(),
        "reasons": {reason: rng.randint(1, rejects) for reason in _REASONS} if rejects else {},
        "tokens": {},
        "missing_columns": rng.choice(([], [], ["AllowPush"])),
        "as_of": rng.choice((None, START)),
        "digest": rng.choice(("d1", "d2")),
        "left_out": rng.choice(([], ["old.csv"])),
        "inputs": [file] * rng.choice((1, 1, 9)),
        "id_map": rng.choice((None, {"path": "/srv/map.csv", "rows": 12, "sha256": "ab" * 32})),
    }


def _withdrawals(rng: random.Random, some: Callable[..., int], began: float) -> Summary:
    ages = [{"upto_h": upto, "open": some()} for upto in (1, 6, 24, 48, 72, None)]
    total = sum(one["open"] or 0 for one in ages)
    return {
        "open": total,
        "parked": some(),
        "past_target": min(total, some()),
        "past_limit": min(total, some()),
        "oldest_started": began - 90_000 if total else None,
        "first_limit": began + 3000 if total else None,
        "ages": ages,
        "by_source": {"withdrawal": total, "a source of tomorrow": 1} if total else {},
        "target_h": 24.0,
        "limit_h": rng.choice((72.0, None)),
        "last_acknowledged": rng.choice((None, began + 1, began - 86_000, began - 864_000)),
    }


def _said_today(rng: random.Random, planned: int, some: Callable[..., int]) -> Summary:
    """Return what a summary of today says and an older one does not."""
    points = rng.choice((0, 1, 2, 300)) if planned else 0
    delivery = {"limit": 11.3, "round_trip_s": 0.042, "most_in_flight": 14}
    delivery |= {name: some() for name in ("turned_away", "pauses", "outages", "once_more")}
    return {
        "delivery": delivery if planned else None,
        "samples": [
            {"s": 0.5 * n, "settled": n, "rate": 90.0 + n, "limit": 8 + n / 50, "in_flight": 8, "round_trip_s": 0.04}
            for n in range(points)
        ],
        "round_trips": {
            "bounds_s": [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
            "counts": [rng.choice((0, some())) for _ in range(13)],
            "sum_s": 12.0,
        },
        "retries": some(),
        "gone": [{"outcome": "refused", "status": 200, "code": 5, "message": EVIL}] * rng.choice((0, 1, 60)),
        "memory_mb": 143,
        "version": "0.1.0",
        "settings": {
            "run": {"timezone": rng.choice(("UTC", "Europe/Moscow"))},
            "endpoint": {
                "base_url": "https://platform.example",
                "not_found_codes": rng.choice(([], [8])),
                "auth": {"password": "**********"},
            },
            "report": {"language": "en", "keep_days": 100, "page": True},
        },
    }
