"""Old faults put back into the product, one at a time: each must break a law within a few hundred histories.

A mutation replaces one named function or constant of the product while histories are played; a history counts as having
found it if it breaks a law with the mutation and none without. `python -m tests.mutations` plays up to 2,000 histories for each
and writes the table in docs/histories.md; one that is not found ends it in 1.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace as changed
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.machine import simulated
from tests.test_histories import play, steps_of

MOST = 2_000
_DOC = Path(__file__).parent.parent / "docs" / "histories.md"
_BEGIN, _END = "<!-- mutations -->", "<!-- /mutations -->"


class Mutation(NamedTuple):
    """A fault: its kind, what it does, what it replaces ("module:name" or "module:Class.name"), and by what."""

    kind: str
    fault: str
    where: str
    make: Callable[[Any], Any]


class Found(NamedTuple):
    """After how many histories a mutation was found, 0 if it was not, and by which law."""

    mutation: int
    after: int
    law: str
    seconds: float


def _to(value: object) -> Callable[[Any], Any]:
    return lambda original: value


def _none_of(part: int) -> Callable[[Any], Any]:
    """Return what makes a function return its result with an array of zeros in one place."""
    return lambda original: lambda *a, **k: _zeroed(original(*a, **k), part)


def _zeroed(found: Any, part: int) -> Any:
    values = list(found)
    values[part] = np.zeros_like(values[part])
    return type(found)(*values)


MUTATIONS = [
    Mutation(
        "a no that a guard holds",
        "held denials are owed to nobody",
        "sync_job.runs.decide:held_denials",
        lambda original: lambda held: original(held.at(np.zeros(len(held.client), np.bool_))),
    ),
    Mutation(
        "a no has a date",
        "whoever is allowed, the dates of denials are not looked at",
        "sync_job.consent.diff:older",
        lambda original: lambda as_of, state, due, denied_at: np.zeros_like(state),
    ),
    Mutation(
        "a no has a date",
        "a denial is as old as the state",
        "sync_job.runs.leg:stated_at",
        lambda original: lambda rows, *rest: np.full(len(rows), -np.inf),
    ),
    Mutation(
        "a no has a date",
        "an export that was read is not noted",
        "sync_job.ledger.applied:Applied.record",
        lambda original: lambda self, one: None,
    ),
    Mutation(
        "a no has a date",
        "a part has no age",
        "sync_job.runs.decide:judge",
        lambda original: lambda *a, **k: _without_age(original(*a, **k)),
    ),
    Mutation(
        "guards are judged again",
        "what was sent in the last day does not count",
        "sync_job.consent.guards:with_sent",
        lambda original: lambda tally, day: tally,
    ),
    Mutation(
        "guards are judged again",
        "guards count what may be sent at this moment",
        "sync_job.consent.diff:_grants",
        lambda original: lambda rulings: np.zeros_like(original(rulings)),
    ),
]


def _without_age(case: Any) -> Any:
    if case.kind == "part":
        case.terms = changed(case.terms, as_of=np.inf)
    return case


@contextmanager
def put_back(mutation: Mutation) -> Iterator[None]:
    """Let the product have a fault within the block."""
    module, _, name = mutation.where.partition(":")
    owner: Any = import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = owner.__dict__[last]
    setattr(owner, last, mutation.make(original))
    try:
        yield
    finally:
        setattr(owner, last, original)


def look_for(number: int, most: int = MOST, first: int = 0) -> Found:
    """Play histories with a mutation until one finds it."""
    began = time.process_time()
    with simulated() as use:
        for seed in range(first, first + most):
            steps = steps_of(seed)
            with put_back(MUTATIONS[number]):
                broken = play(use, seed, steps)
            if broken is not None and play(use, seed, steps) is None:
                return Found(number, seed - first + 1, broken.law, time.process_time() - began)
    return Found(number, 0, "", time.process_time() - began)


def table(found: list[Found]) -> str:
    """Return what was found, as it stands in the docs."""
    rows = [
        f"| {MUTATIONS[one.mutation].kind} | {MUTATIONS[one.mutation].fault} | "
        f"{one.after or 'not found'} | {one.law} |"
        for one in sorted(found)
    ]
    return "\n".join(["| kind | fault put back | found after | law |", "|---|---|---|---|", *rows])


def main(chosen: list[int]) -> int:
    """Look for each mutation, print the table and write it into the docs; return 1 if one was not found."""
    numbers = chosen or list(range(len(MUTATIONS)))
    found = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for one in pool.map(look_for, numbers):
            found.append(one)
            said = f"after {one.after}, {one.law}" if one.after else "not found"
            sys.stderr.write(f"{one.mutation}: {MUTATIONS[one.mutation].fault}: {said} ({one.seconds:.0f} s)\n")
    sys.stdout.write(f"{table(found)}\n")
    if not chosen and _DOC.exists():
        text = _DOC.read_text("utf-8")
        before, after = text.split(_BEGIN)[0], text.split(_END)[1]
        _DOC.write_text(f"{before}{_BEGIN}\n{table(found)}\n{_END}{after}", "utf-8")
    return int(any(not one.after for one in found))


if __name__ == "__main__":
    sys.exit(main([int(one) for one in sys.argv[1:]]))
