"""A person says what a restored backup lacks, so that the state may grant again."""

import time

from sync_job.config import Settings
from sync_job.consent.tables import union
from sync_job.errors import ConfigError
from sync_job.exports.lists import List
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, erasure, intake
from sync_job.runs.intake import Listing
from sync_job.runs.recover import holding
from sync_job.runs.watch import Watch


def restored(
    settings: Settings, since: Listing | None, by: str, watch: Watch, *, missing: int = 0, erased_missing: int = 0
) -> Summary:
    """Take in the withdrawals that came in since the backup, or none, and let the state grant again.

    *missing* is how many people who withdrew are missing still and can be named by nobody. They are denied where their
    ids are known or come up. *erased_missing* is of how many erased people the codes are lost: nobody knows them again.

    Raises:
        ConfigError: when the state is not a restored backup and no codes are lost, nobody signs for it, or other
            numbers are missing still; a list that was named is taken in all the same.
    """
    if not by.strip():
        raise ConfigError("state restored: say who says so (--by); it is kept and reported.")
    found = intake.read(settings, since, watch) if since else None
    watch.stage("taking it in")
    with holding(settings, lists_only=True) as state:
        how = state.ledger.about.restored()
        lost = anchoring.codes_lost(state, settings)
        if not how and not lost:
            said = state.ledger.about.said("made_whole")
            already = f" Somebody has said already what it lacks ({said})." if said else ""
            where = state.folder.absolute()
            raise ConfigError(f"{where}: not a restored backup; there is nothing to say of it.{already}")
        lacking = before = anchoring.lacking(state, settings)
        if found:
            intake.put(settings, found, time.time())
            intake.absorb(state, settings)
            lacking = anchoring.lacking(state, settings)
        if lacking != missing:
            raise ConfigError(f"{state.folder.absolute()}: {_lacking(found, before, lacking)}")
        if lost != erased_missing:
            raise ConfigError(f"{settings.state.keys.absolute()}: {_lost(lost)}")
        ids = union(state.holdings().client, state.ledger.withdrawals.clients())
        recognised = anchoring.take_over(state, settings, ids)
        state.ledger.about.note_buried(len(erasure.tombstones(settings)))
        words = f"{found.digest if found else 'no withdrawals since'}, {missing} missing"
        words += f", codes of {anchoring.erased(lost)} lost" if lost else ""
        state.ledger.about.note_whole(f"{by.strip()}: {words}")
        anchoring.keep(state, settings)
        return {
            "was": how,
            "withdrawals_since": found.rows - found.rejected - found.erased if found else 0,
            "rejected": found.rejected if found else 0,
            "erased": found.erased if found else 0,
            "missing": missing,
            "erased_missing": lost,
            "recognised": recognised,
            "by": by.strip(),
            **state.ledger.withdrawals.counts(),
        }


def _lacking(found: List | None, before: int, lacking: int) -> str:
    """Return how many people are missing still, how many a list has named, and what to do."""
    named = ""
    if found:
        named = f"The list was taken in, and named {before - lacking:,} of the {before:,} who were missing. "
    if not lacking:
        return f"{named}Nobody is missing any more: say so without --missing."
    return (
        f"{named}{anchoring.people(lacking)} who withdrew {'is' if lacking == 1 else 'are'} missing"
        f"{' still' if found else ''}; only the lists that name them help. Name them with --withdrawals-since. If "
        f"nobody can, say --missing {lacking}: they are denied as soon as their ids come up, and count as withdrawn."
    )


def _lost(lost: int) -> str:
    """Return of how many erased people the codes are lost, and what to do."""
    if not lost:
        return "no codes of erased people are lost (any more): say so without --erased-missing."
    return (
        f"the codes of {anchoring.erased(lost)} are lost. Restore the folder of keys from its newest backup. If there "
        "is none, `forget` once more whom you can name: the others are sent again as soon as an export names them. "
        f"Then say --erased-missing {lost}."
    )
