"""Old faults put back into the product, one at a time: each must break a law within a few hundred histories.

A mutation replaces one named function or constant of the product while histories are played; a history has found it if
it breaks a law with the mutation and none without. `python -m tests.mutations` plays up to 2,000 histories for each and
writes the table in docs/histories.md; one that is not found ends it in 1.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace as changed
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sync_job.consent import diff
from sync_job.consent.channels import allowed
from sync_job.ledger import anchor
from sync_job.runs import anchoring, decide
from tests.machine import simulated
from tests.test_histories import play, steps_of

MOST = 2_000
_DOC = Path(__file__).parent.parent / "docs" / "histories.md"
_BEGIN, _END = "<!-- mutations -->", "<!-- /mutations -->"


class Mutation(NamedTuple):
    """A fault: its kind, what it does, what it replaces ("module:name" or "module:Class.name"), and by what."""

    kind: str
    fault: str
    where: tuple[str, ...]
    make: Callable[[Any], Any]


class Found(NamedTuple):
    """After how many histories a mutation was found, 0 if it was not, and by which law."""

    mutation: int
    after: int
    law: str
    seconds: float


def _to(value: object) -> Callable[[Any], Any]:
    return lambda original: value


def _returns(make: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda original: make


A_DATE = "A no has a date"
DISPATCH = "A decision holds at dispatch"
OWED = "A no that was read is owed"
GUARDS = "Guards count what is asked for, over a day"
WHOSE = "Whose number it is"
SET = "A set is not a number"
CODES = "Exit codes come from the state"
CLOCKS = "A wrong clock is survived"
WHOLE = "A whole state is not called damaged"
ERASED = "Who is erased is gone, and was denied first"
FIRST = "The first rows block no denials"

MUTATIONS = [
    Mutation(
        A_DATE,
        "dates of denials are not compared",
        ("sync_job.consent.diff:older",),
        _returns(lambda as_of, state, *rest, **more: np.zeros_like(state)),
    ),
    Mutation(
        A_DATE,
        "denials get no date",
        ("sync_job.runs.leg:stated_at",),
        _returns(lambda rows, *rest: np.full(len(rows), -np.inf)),
    ),
    Mutation(
        A_DATE,
        "a part has no age",
        ("sync_job.runs.decide:judge",),
        lambda original: lambda *a, **k: _without_age(original(*a, **k)),
    ),
    Mutation(
        A_DATE,
        "exports without an age are always current",
        ("sync_job.ledger.applied:Applied.current_at",),
        _returns(lambda self, *rest: rest[-1]),
    ),
    Mutation(
        A_DATE,
        "nothing is kept of what the export of a plan says",
        ("sync_job.runs.planning:_heard",),
        lambda original: lambda said, about: original(said.at(np.zeros(len(said.client), np.bool_)), about),
    ),
    Mutation(
        DISPATCH,
        "the gate at dispatch always says yes",
        ("sync_job.runs.leg:_Gate.__call__",),
        _returns(lambda self: True),
    ),
    Mutation(
        DISPATCH,
        "the inbox always looks empty at dispatch",
        ("sync_job.ledger.inbox:Lookout.is_empty",),
        _returns(lambda self: True),
    ),
    Mutation(
        DISPATCH,
        "an export grows as old as it likes while it is sent",
        ("sync_job.runs.leg:_Gate.__init__",),
        lambda original: lambda self, folder, stop, fresh_until: original(self, folder, stop, np.inf),
    ),
    Mutation(
        OWED,
        "what a guard holds is owed to nobody",
        ("sync_job.runs.decide:held_denials",),
        lambda original: lambda held: original(held.at(np.zeros(len(held.client), np.bool_))),
    ),
    Mutation(
        OWED,
        "only what was acknowledged as allowed is owed a denial",
        ("sync_job.consent.settlement:may_be_allowed",),
        _returns(lambda rows: allowed(rows.state)),
    ),
    Mutation(
        OWED,
        "a list is answered for its own rows alone",
        ("sync_job.ledger.withdrawals:Withdrawals.list_state",),
        lambda original: lambda self, digest: _all_done(original(self, digest)),
    ),
    Mutation(
        GUARDS,
        "what was sent in the last day does not count",
        ("sync_job.consent.guards:with_sent",),
        _returns(lambda tally, day: tally),
    ),
    Mutation(
        GUARDS,
        "guards count what may be sent at this moment",
        ("sync_job.runs.decide:_guarded",),
        lambda original: lambda case, *rest: _guarded_at_first(original, case, *rest),
    ),
    Mutation(
        WHOSE,
        "a withdrawal stays with the number that it was resolved to",
        ("sync_job.runs.intake:_resolve",),
        _returns(lambda state, settings: False),
    ),
    Mutation(
        WHOSE,
        "who becomes one person with somebody is owed no denial",
        ("sync_job.runs.carrying:joining.denied_by_any",),
        _returns(lambda *rest: (np.zeros(0, np.int32), np.zeros(0, np.uint8))),
    ),
    Mutation(
        SET,
        "a restored state is asked for nobody",
        ("sync_job.ledger.accounting:missing",),
        _returns(lambda ledger, codes: 0),
    ),
    Mutation(
        SET,
        "any list will do for a new state",
        ("sync_job.runs.init:_refuse_forgetting",),
        lambda original: lambda settings, named, missing: _codes_of_init(settings),
    ),
    Mutation(
        CODES,
        "codes come from the error alone",
        ("sync_job.runs.owing:code",),
        _returns(lambda found, before: before),
    ),
    Mutation(
        CODES,
        "lists in the inbox are in no count",
        ("sync_job.ledger.obligations:_together",),
        lambda original: (
            lambda owed, coming: original(owed, coming.__class__(*(part[:0] for part in vars(coming).values())))
        ),
    ),
    Mutation(
        CLOCKS,
        "exports from the future outdo all later ones",
        tuple(f"sync_job.{name}:AHEAD_S" for name in ("ledger.applied", "exports.age", "exports.loader")),
        _to(1e12),
    ),
    Mutation(
        WHOLE,
        "no run has two spellings",
        ("sync_job.ledger.obligations:Obligations._add",),
        lambda original: lambda self, *a, run=None, **k: original(self, *a, run=run or "", **k),
    ),
    Mutation(
        WHOLE,
        "a full disk is damage",
        ("sync_job.ledger.files:_is_refused",),
        _returns(lambda path, exc: False),
    ),
    Mutation(
        ERASED,
        "a list of before an erasure brings people back",
        ("sync_job.runs.erasure:later_than_erasure", "sync_job.ledger.withdrawals:later_than_erasure"),
        _returns(lambda client, at, erased_at: np.ones(len(client), np.bool_)),
    ),
    Mutation(
        ERASED,
        "an erasure denies only what is known to be allowed",
        ("sync_job.ledger.obligations:Obligations.owe_before_erasure",),
        _returns(lambda self, *rest: None),
    ),
    Mutation(
        ERASED,
        "nobody is asked before many are erased",
        ("sync_job.runs.forgetting:confirm",),
        _returns(lambda *rest: None),
    ),
    Mutation(
        FIRST,
        "canaries that the platform does not know end the run",
        ("sync_job.runs.legs:Legs._heeding_unknown",),
        lambda original: lambda self, rows, fresh_until: (original(self, rows, fresh_until)[0], False),
    ),
]


def _without_age(case: Any) -> Any:
    if case.kind == "part":
        case.terms, case.fresh_until = changed(case.terms, as_of=np.inf, ages=None, may_grant=True), np.inf
    return case


def _guarded_at_first(original: Any, case: Any, known: Any, owing: Any, ledger: Any, now: float) -> Any:
    """Judge but the first plan of a run, and in it but what may be granted at that moment."""
    if case.first is None:
        grants = diff._grants
        diff._grants = lambda rulings: np.zeros_like(grants(rulings))
        try:
            original(case, known, owing, ledger, now)
        finally:
            diff._grants = grants
    return decide.plan(case, known, owing, now)


def _all_done(found: Any) -> Any:
    names = ("acknowledged", "open", "refused", "parked")
    return found and found | dict.fromkeys(names, 0) | {"acknowledged": sum(found[name] for name in names)}


def _codes_of_init(settings: Any) -> Any:
    return anchoring.codes_of(settings, anchor.read(settings.state.keys, settings.endpoint.target))


@contextmanager
def put_back(mutation: Mutation) -> Iterator[None]:
    """Let the product have a fault within the block."""
    replaced: list[tuple[Any, str, Any]] = []
    for where in mutation.where:
        module, _, name = where.partition(":")
        owner: Any = import_module(module)
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        replaced.append((owner, last, owner.__dict__[last]))
        setattr(owner, last, mutation.make(owner.__dict__[last]))
    try:
        yield
    finally:
        for owner, last, original in replaced:
            setattr(owner, last, original)


def look_for(number: int, most: int = MOST, first: int = 0) -> Found:
    """Play histories with a mutation until one finds it."""
    began = time.process_time()
    gc.collect()
    gc.freeze()  # what is imported stays
    with simulated() as use:
        for seed in range(first, first + most):
            steps = steps_of(seed)
            with put_back(MUTATIONS[number]):
                broken = play(use, seed, steps)
            # What breaks the product's own code is no fault that a law has found.
            if broken is not None and broken.law not in ("error", "bug") and play(use, seed, steps) is None:
                return Found(number, seed - first + 1, broken.law, time.process_time() - began)
    return Found(number, 0, "", time.process_time() - began)


def table(found: list[Found]) -> str:
    """Return what was found, as it stands in the docs."""
    rows = [
        f"| {MUTATIONS[one.mutation].kind} | {MUTATIONS[one.mutation].fault} | {one.after or 'not found'} | {one.law} |"
        for one in sorted(found)
    ]
    return "\n".join(["| kind | fault put back | found after | law |", "|---|---|---|---|", *rows])


def main(chosen: list[int]) -> int:
    """Look for each mutation, print the table and write it into the docs; return 1 if one was not found."""
    numbers = chosen or list(range(len(MUTATIONS)))
    found = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        looking = [pool.submit(look_for, number, int(os.environ.get("CONSENT_SYNC_MOST", MOST))) for number in numbers]
        for done in as_completed(looking):
            one = done.result()
            found.append(one)
            said = f"after {one.after}, {one.law}" if one.after else "not found"
            sys.stderr.write(f"{one.mutation} {MUTATIONS[one.mutation].fault}: {said} ({one.seconds:.0f} s)\n")
    sys.stdout.write(f"{table(found)}\n")
    if not chosen and _DOC.exists():
        text = _DOC.read_text("utf-8")
        before, after = text.split(_BEGIN)[0], text.split(_END)[1]
        _DOC.write_text(f"{before}{_BEGIN}\n{table(found)}\n{_END}{after}", "utf-8")
    return int(any(not one.after for one in found))


if __name__ == "__main__":
    sys.exit(main([int(one) for one in sys.argv[1:]]))
