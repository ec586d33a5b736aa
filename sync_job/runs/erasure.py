"""Erasure: outstanding denials first, then a client leaves everything that is kept, and a tombstone stays."""

from sync_job.config import Settings
from sync_job.consent.channels import Ids
from sync_job.consent.tables import Table
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones


def among(settings: Settings, statements: Table) -> Ids:
    """Return the clients of an export that were erased: nothing of them is sent or kept."""
    tombstones = Tombstones.open(settings.state.keys, settings.endpoint.target)
    ids = statements.items()[0] if len(tombstones) else statements.slots.clients(0, statements.values[:0].nonzero()[0])
    return ids[tombstones.of(ids)]


def complete(state: State, settings: Settings) -> None:
    """Erase those who were to be erased as soon as nothing is owed to them any more."""


def again(state: State, settings: Settings) -> None:
    """Erase again those whom a restored backup has brought back, but for what a list said of them since."""
