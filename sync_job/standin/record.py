"""The state kept in a file, always whole: a stand-in that is killed leaves the file of about a second before."""

import asyncio
from contextlib import suppress
from pathlib import Path

from sync_job.standin.platform import Platform

# A large state takes long to write; this leaves the rest of the time to requests.
_SHARE_OF_TIME = 0.1


def replace(path: Path, text: str) -> None:
    """Put *text* in the place of *path* in one step; whoever reads it sees the old text or the new.

    It outlives the process, not a power cut: nothing is flushed to the disk.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


async def keep(platform: Platform, path: Path, every_s: float, stopping: asyncio.Event) -> None:
    """Replace *path* by the platform's CSV at once, after changes, and a last time once *stopping* is set.

    Two replacements are *every_s* apart, and further where writing takes more than a tenth of the time. Not meant to
    be cancelled: a thread that still writes could put an older state in the place of the last.
    """
    loop = asyncio.get_running_loop()
    written = -1
    while True:
        last = stopping.is_set()
        pause_s = every_s
        if last or platform.entries != written:
            # Read before the state is: a change in between is written twice rather than never.
            written = platform.entries
            started_s = loop.time()
            await asyncio.to_thread(lambda: replace(path, platform.csv()))
            pause_s = max(every_s, (loop.time() - started_s) / _SHARE_OF_TIME)
        if last:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause_s)
