"""An event loop in virtual time: nothing waits, the clock jumps to the next timer, and a deadlock is an error."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class DeadlockError(Exception):
    """Every task waits, and no timer will ever wake one."""


class _Selector(selectors.DefaultSelector):
    """Lets the time pass that it is asked to wait for, instead of waiting."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError
        self.now_s += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time starts at 0 and passes only while everybody waits."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual seconds since the start."""
        return self._virtual.now_s


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Return what *main* does, run to its end in virtual time.

    Raises:
        DeadlockError: when everybody waits for each other.
    """
    loop = VirtualLoop()
    try:
        task = loop.create_task(main)
        try:
            return loop.run_until_complete(task)
        except DeadlockError:
            for waiting in asyncio.all_tasks(loop):
                waiting.cancel()
            loop.call_soon(lambda: None)
            loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
            raise
    finally:
        loop.close()


def now() -> float:
    """Return the virtual time of the loop that runs."""
    return asyncio.get_running_loop().time()


async def sleep(seconds: float) -> None:
    """Sleep in virtual time, at least a microsecond: a wait too small for the clock to show would never end."""
    await asyncio.sleep(max(seconds, 1e-6) if seconds > 0 else 0)
