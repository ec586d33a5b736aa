"""Whose a state is if the configuration says another address, as it may before and after `state retarget`."""

from typing import NamedTuple

from sync_job.config import Settings
from sync_job.errors import ForeignStateError, StateError
from sync_job.ledger import ledger
from sync_job.ledger.ledger import Ledger


class Bound(NamedTuple):
    """The settings with the target of the state itself; *mend* says what is wrong with those that were given, if any.

    *keyed*: what lies in the folder of keys is of this state's people.
    """

    settings: Settings
    mend: str
    keyed: bool


def bound(settings: Settings) -> Bound:
    """Return the settings as the state has them; those that were given if it cannot be read."""
    path, given = settings.state.path / "ledger.db", settings.endpoint.target
    try:
        Ledger.open(path, given, write=False).close()
    except ForeignStateError as exc:
        base_url, _, operator = ledger.target_of(path).rpartition(" operator ")
        address = {"base_url": base_url, "operator": int(operator) if operator.isdecimal() else 0}
        own = settings.model_copy(update={"endpoint": settings.endpoint.model_copy(update=address)})
        try:
            with Ledger.open(path, own.endpoint.target, write=False) as found:
                return Bound(own, str(exc), given in found.about.targets())
        except StateError:
            return Bound(own, str(exc), keyed=False)
    except StateError:
        pass
    return Bound(settings, "", keyed=True)
