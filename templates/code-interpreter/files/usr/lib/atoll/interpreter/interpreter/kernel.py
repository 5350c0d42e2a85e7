"""What every kernel can do, whatever runs the code."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from .wire import Event

#: Takes what an execution says; waits while the client is slow.
Emit = Callable[[Event], Awaitable[None]]


class KernelDied(Exception):
    """The kernel's process ended before the execution did."""


class KernelFailed(Exception):
    """The kernel could not be started; the text says why."""


class Kernel(Protocol):
    """One process that runs code and remembers. Its context sees to it that one execution runs at a time."""

    async def start(self) -> None:
        """Ends when it can take code. Raises KernelFailed."""

    def alive(self) -> bool: ...

    async def execute(self, code: str, env: Mapping[str, str], emit: Emit) -> None:
        """Runs the code to its end; `env` holds for this execution alone. Raises KernelDied."""

    async def interrupt(self) -> None:
        """Asks the execution under way to end: Ctrl-C."""

    async def settle(self) -> None:
        """Ends when what was interrupted has ended; what it still says is thrown away. Raises KernelDied."""

    async def stop(self) -> None:
        """Ends the process and all that it has started."""
