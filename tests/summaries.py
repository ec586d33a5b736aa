"""Summaries of runs as tests of page and pictures want them: fine, in need of somebody, of extremes, and of nothing."""

import copy
import math
import random
from typing import Any

from sync_job.consent.channels import CHANNELS

Summary = dict[str, Any]
STARTED = 1_795_485_600.0  # a night at two, 2026-11-24 02:00 UTC
DAY_S = 86_400
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
AGES_H = (1, 4, 24, 48, 72, 168, None)


def samples(count: int, span_s: float) -> list[Summary]:
    """Return how sending went, in *count* samples over so many seconds."""
    rng = random.Random(count)
    return [
        {
            "s": 0.2 + span_s * place / max(1, count - 1),
            "settled": 100 * place,
            "rate": round(900 + 300 * math.sin(place / 20) + 50 * rng.random(), 1),
            "limit": round(20 + 8 * math.sin(place / 30), 2),
            "in_flight": round(15 + 6 * math.sin(place / 30)),
            "round_trip_s": round(0.008 + 0.004 * rng.random(), 4),
        }
        for place in range(count)
    ]


def _outcomes(delivered: int, refused: int = 0, exhausted: int = 0, deferred: int = 0) -> Summary:
    return {"delivered": delivered, "refused": refused, "exhausted": exhausted, "deferred": deferred}


def _channels(count: int = 0) -> dict[str, int]:
    return dict.fromkeys(CHANNELS, count)


def _round_trips(answers: int) -> Summary:
    counts = [answers, *(0 for _ in BOUNDS_S)]
    return {"bounds_s": [*BOUNDS_S], "counts": counts, "sum_s": 0.004 * answers}


def _transitions(counts: tuple[int, ...]) -> Summary:
    """Return a matrix for each channel: from nothing, denied and allowed to denied and allowed."""
    return {
        channel: {
            was: {"denied": counts[2 * place], "allowed": counts[2 * place + 1]}
            for place, was in enumerate(("nothing", "denied", "allowed"))
        }
        for channel in CHANNELS
    }


def _owed(*ages: int) -> Summary:
    return {
        "open": sum(ages),
        "parked": 0,
        "past_target": sum(ages[3:]),
        "past_limit": sum(ages[5:]),
        "oldest_started": STARTED - 200 * 3600 if ages else None,
        "first_limit": STARTED - 128 * 3600 if ages else None,
        "by_age": {"under 1 h": sum(ages[:1]), "1 to 24 h": sum(ages[1:3]), "24 to 48 h": 0, "over 48 h": 0},
        "by_source": {"list": sum(ages)} if ages else {},
        "ages": [{"upto_h": upto_h, "open": ages[place] if ages else 0} for place, upto_h in enumerate(AGES_H)],
        "target_h": 24,
        "limit_h": 72,
        "last_acknowledged": STARTED + 191,
    }


def nothing() -> Summary:
    """Return the summary of a run that found nothing: an export of no rows."""
    return {
        "kind": "run",
        "run": "0042-20261124T020000Z",
        "target": "https://loyalty.example operator 7",
        "version": "1.0.0",
        "started": STARTED,
        "ended": STARTED + 1.5,
        "exit": 0,
        "reasons": [],
        "restrict_only": "",
        "doubts": [],
        "guards": [],
        "approvals": [],
        "approvable": {},
        "grants": {"new": 0, "re": 0, "revocations": _channels(), "lost": 0, "unknown": 0},
        "withdrawals": _owed(),
        "made": None,
        "as_of": "none",
        "export": {
            "rows": 0,
            "clients": 0,
            "in_rejects_only": 0,
            "duplicates": 0,
            "conflicting": 0,
            "rejects": 0,
            "others": 0,
            "reasons": {},
            "tokens": {},
            "missing_columns": [],
            "as_of": None,
            "digest": "0" * 64,
            "left_out": [],
            "inputs": [],
            "id_map": None,
        },
        "decided": {
            "stated": 0,
            "forgotten": 0,
            "planned": 0,
            "planned_unstated": 0,
            "waiting": 0,
            "blocked": 0,
            "held": 0,
            "unchanged": 0,
            "absent": 0,
            "held_channels": _channels(),
            "blocked_channels": _channels(),
        },
        "transitions": _transitions((0,) * 6),
        "lanes": dict.fromkeys(("obligation", "withdrawal", "revocation", "denial", "grant"), 0),
        "planned": 0,
        "outcomes": _outcomes(0),
        "legs": [],
        "delivery": None,
        "requests": 0,
        "requests_per_s": 0.0,
        "retries": 0,
        "samples": [],
        "round_trips": _round_trips(0),
        "codes": [],
        "gone": [],
        "seconds": {"read": 0.1, "report": 0.1},
        "settings": {"endpoint": {"base_url": "https://loyalty.example", "token": "**********"}},
        "memory_mb": 180.0,
        "folder": "reports/0042-20261124T020000Z",
    }


def fine() -> Summary:
    """Return the summary of a night on which all was delivered."""
    found = nothing()
    found["export"] |= {"rows": 5073, "clients": 5009, "in_rejects_only": 13, "duplicates": 52, "rejects": 25}
    found["export"]["reasons"] = {"PushConsent: unknown token": 14, "CustomerId: no id": 11}
    found["decided"] |= {"stated": 5009, "planned": 48, "unchanged": 4961, "absent": 3}
    found["grants"] |= {"new": 17, "re": 6, "revocations": _channels(8), "lost": 3}
    found |= {
        "transitions": _transitions((4, 12, 7, 1, 8, 0)),
        "planned": 48,
        "outcomes": _outcomes(48),
        "legs": [{"leg": 1} | _outcomes(48)],
        "delivery": {
            "limit": 15.7,
            "round_trip_s": 0.005,
            "most_in_flight": 19,
            "turned_away": 0,
            "pauses": 0,
            "outages": 0,
            "once_more": 0,
        },
        "requests": 48,
        "requests_per_s": 960.0,
        "samples": samples(3, 1.2),
        "round_trips": _round_trips(48),
        "codes": [_answer("delivered", 200, 0, "", 48)],
        "ended": STARTED + 4,
    }
    return found


def _answer(
    outcome: str, status: int | None, code: int | None, message: str, count: int, since: str = "known"
) -> Summary:
    names = {"outcome": outcome, "status": status, "code": code, "message": message}
    return names | {"count": count, "since": since}


def acting() -> Summary:
    """Return the summary of a night that needs somebody: refusals, something held, and opt-outs past their limit."""
    found = fine()
    found["decided"] |= {"unchanged": 4774, "waiting": 100, "held": 61, "blocked": 26}
    found["decided"] |= {"held_channels": _channels(20), "blocked_channels": _channels(9)}
    found |= {
        "exit": 7,
        "reasons": [
            "2 opt-outs are past their limit and not acknowledged: `consent-sync withdrawals status` lists them",
            "61 re-grants, more than 50",
        ],
        "guards": [{"guard": "re-grants", "count": 61, "at_most": 50, "channel": ""}],
        "approvable": {"grants": 61},
        "withdrawals": _owed(120, 40, 12, 3, 1, 0, 2),
        "planned": 60,
        "outcomes": _outcomes(40, 3, 2, 15),
        "legs": [{"leg": 0} | _outcomes(12), {"leg": 1} | _outcomes(28, 3, 2, 15)],
        "requests": 77,
        "retries": 17,
        "samples": samples(300, 1800),
        "codes": [
            _answer("delivered", 200, 0, "", 40),
            _answer("refused", 200, 8, "Клиент не найден", 3, "new"),
            _answer("exhausted", 503, None, "Service Unavailable", 2),
        ],
        "gone": [{"outcome": "refused", "status": 200, "code": 5, "message": "Карта заблокирована"}],
        "ended": STARTED + 1803,
    }
    return found


def huge() -> Summary:
    """Return the summary of the largest shop, with every kind of count in the millions."""
    found = acting()
    rows, duplicates, rejects, only = 123_456_789, 1_234_567, 234_567, 13
    clients = rows - duplicates - rejects + only
    found["export"] |= {"rows": rows, "clients": clients, "duplicates": duplicates, "rejects": rejects}
    found["decided"] |= {
        "stated": clients,
        "planned": 12_345_678,
        "waiting": 1_000_000,
        "held": 0,
        "blocked": 2_000_000,
    }
    found["decided"]["unchanged"] = clients - 15_345_678
    found["withdrawals"] |= _owed(12_345_678, 1_234_567, 123_456, 345, 12, 0, 2)
    found |= {
        "transitions": _transitions((104_857_600, 3, 0, 99_999_999, 12_345_678, 1)),
        "planned": 12_445_678,
        "outcomes": _outcomes(10_123_456, 222_222, 2_000_000, 100_000),
        "requests": 31_000_000,
        "samples": samples(300, 30_000),
        "ended": STARTED + 30_100,
    }
    return found


def extreme() -> Summary:
    """Return a summary whose texts are as bad as texts can be: very long, without a space, and of markup."""
    found = huge()
    long = "Ж" * 800
    markup = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>&amp;"
    found["codes"] = [
        *(_answer("refused", 200, 100 + place, f"{place} {markup}", 1, "new") for place in range(12)),
        _answer("refused", 200, 2_147_483_647, long, 222_210),
        _answer("exhausted", None, None, "a" * 500, 2_000_000),
    ]
    found["gone"] = [{"outcome": "refused", "status": 200, "code": 5, "message": markup}]
    found["reasons"] = [markup, long]
    found["export"]["reasons"] = {f"{markup}{'x' * 300}": 234_567}
    found["export"]["tokens"] = {"AllowSms": {markup: 5, long: 3}}
    found["export"]["missing_columns"] = [markup]
    found["export"]["inputs"] = [
        {
            "path": f"/srv/{'very-long-folder/' * 20}{markup}.csv",
            "format": "csv",
            "size_bytes": 99_999_999_999,
            "sha256": "f" * 64,
            "rows": 123_456_789,
            "compression": "",
            "encoding": "utf-8",
            "delimiter": ",",
            "newline": "LF",
            "renamed": {},
            "comments": 0,
            "repeated_headers": 0,
            "sheet": "",
            "columns": [markup, long],
            "partition": {},
        }
    ]
    found["target"] = f"https://{'long.' * 40}example operator 7"
    found["settings"] = {"endpoint": {"headers": {markup: long}}}
    return found


def nights(count: int, seed: int = 1) -> list[Summary]:
    """Return the summaries of so many nights before, the oldest first."""
    rng = random.Random(seed)
    found = []
    for place in range(count):
        one = copy.deepcopy(fine())
        planned, refused = rng.randint(800, 1500), rng.choice((0, 0, 0, 3, 12))
        started = STARTED + DAY_S * (place - count)
        one |= {
            "run": f"{place + 1:04d}-{place:08d}T020000Z",
            "started": started,
            "ended": started + rng.randint(200, 700),
            "planned": planned,
            "outcomes": _outcomes(planned - refused, refused),
            "samples": [],
        }
        one["decided"] |= {"stated": planned + 4961, "planned": planned}
        one["export"] |= {"rejects": rng.randint(10, 40)}
        one["withdrawals"] |= {"last_acknowledged": started + 191}
        found.append(one)
    return found
