"""A person says what a restored backup lacks, so that the state may grant again."""

import time

from sync_job.config import Settings
from sync_job.errors import ConfigError
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, erasure, intake
from sync_job.runs.intake import Listing
from sync_job.runs.recover import holding
from sync_job.runs.watch import Watch


def restored(settings: Settings, since: Listing | None, by: str, watch: Watch, *, missing: int = 0) -> Summary:
    """Take in the withdrawals that came in since the backup, or none, and let the state grant again.

    *missing* is how many are known to be missing still and can be named by nobody.

    Raises:
        ConfigError: when the state is not a restored backup, nobody signs for it, or more or less is missing still;
            a list that was named is taken in all the same.
    """
    if not by.strip():
        raise ConfigError("state restored: say who says so (--by); it is kept and reported.")
    found = intake.read(settings, since, watch) if since else None
    watch.stage("taking it in")
    with holding(settings, lists_only=True) as state:
        how = state.ledger.about.restored()
        if not how:
            raise ConfigError(f"{state.folder.absolute()}: not a restored backup; there is nothing to say of it.")
        if found:
            intake.put(settings, found, time.time())
            intake.absorb(state, settings)
        lacking = anchoring.lacking(state, settings)
        if lacking != missing:
            still = " still" if found else ""
            raise ConfigError(
                f"{state.folder.absolute()}: {lacking:,} withdrawals that there were are missing{still}. Name them "
                f"with --withdrawals-since. If nobody can, say --missing {lacking}: whoever they are is allowed again "
                "by the next export that says so."
            )
        state.ledger.about.note_buried(len(erasure.tombstones(settings)))
        words = f"{found.digest if found else 'no withdrawals since'}, {missing} missing"
        state.ledger.about.note_whole(f"{by.strip()}: {words}")
        anchoring.keep(state, settings)
        return {
            "was": how,
            "withdrawals_since": found.rows - found.rejected - found.erased if found else 0,
            "rejected": found.rejected if found else 0,
            "erased": found.erased if found else 0,
            "missing": missing,
            "by": by.strip(),
            **state.ledger.withdrawals.counts(),
        }
