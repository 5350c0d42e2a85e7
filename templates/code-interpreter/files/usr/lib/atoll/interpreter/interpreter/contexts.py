"""Contexts: what remembers between executions. Each has a kernel, a directory and a language.

Executions of one context run one after the other, in the order in which they came. A kernel that has died is replaced
by a fresh one when its context is used again. Who goes away while code runs interrupts it; code that doesn't heed that
costs the context its memory.
"""

import asyncio
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import languages, wire
from .kernel import Emit, Kernel, KernelDied, KernelFailed

HOME = "/home/user"
MAX_CONTEXTS = 64
#: How many may wait for one context.
MAX_WAITING = 128
#: How long interrupted code may go on.
INTERRUPT_SECONDS = 5

log = logging.getLogger("interpreter")


class NotFound(Exception):
    """There is no such context."""


class Refused(Exception):
    """What was asked for can't be had; the text says why."""


class Overloaded(Exception):
    """There are too many already."""


@dataclass
class Context:
    language: str
    cwd: str
    kernel: Kernel
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    deleted: bool = False

    def shown(self) -> dict[str, str]:
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    async def ready(self) -> None:
        """Starts the kernel unless it runs. Raises KernelFailed."""
        async with self.turn:
            await self._start()

    async def _start(self) -> None:
        if self.deleted:
            raise KernelFailed("the context was deleted")
        if not self.kernel.alive():
            await self.kernel.stop()
            await self.kernel.start()

    async def run(self, code: str, env: Mapping[str, str], emit: Emit) -> None:
        """Runs the code when it is its turn; cancelling interrupts it. What goes wrong is an event, too."""
        if self.waiting >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} executions wait for this context already")
        self.waiting += 1
        try:
            async with self.turn:
                await self._run(code, env, emit)
        finally:
            self.waiting -= 1

    async def _run(self, code: str, env: Mapping[str, str], emit: Emit) -> None:
        try:
            await self._start()
            await self.kernel.execute(code, env, emit)
        except KernelFailed as problem:
            await emit(wire.error("KernelFailed", str(problem), ""))
        except KernelDied:
            await self.kernel.stop()
            text = "the kernel ended before the execution did; the context begins anew with the next one"
            await emit(wire.error("UnexpectedEndOfExecution", text, ""))
        except asyncio.CancelledError:
            await self._interrupt()
            raise

    async def _interrupt(self) -> None:
        try:
            await self.kernel.interrupt()
            async with asyncio.timeout(INTERRUPT_SECONDS):
                await self.kernel.settle()
        except (KernelDied, TimeoutError):
            log.warning("an execution in %s did not heed its interruption: the kernel is ended", self.id)
            await self.kernel.stop()

    async def restart(self) -> None:
        """Ends what runs, and begins anew. Raises KernelFailed."""
        await self.kernel.stop()
        await self.ready()

    async def delete(self) -> None:
        self.deleted = True
        await self.kernel.stop()


class Contexts:
    def __init__(self) -> None:
        self.by_id: dict[str, Context] = {}
        #: The ones that executions go to that name no context.
        self.defaults: dict[str, Context] = {}
        self.starting: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Makes the contexts that are there from the start; their kernels start behind."""
        for language in languages.AT_START:
            task = asyncio.create_task(self._begin(self._default(language)))
            self.starting.add(task)
            task.add_done_callback(self.starting.discard)

    @staticmethod
    async def _begin(context: Context) -> None:
        try:
            await context.ready()
        except KernelFailed as problem:
            # Whoever uses the context tries it again, and is told.
            log.error("the default context of %s: %s", context.language, problem)

    async def end(self) -> None:
        for task in tuple(self.starting):
            task.cancel()
        contexts = list(self.by_id.values())
        self.by_id, self.defaults = {}, {}
        await asyncio.gather(*(context.delete() for context in contexts), return_exceptions=True)

    def list(self) -> list[dict[str, str]]:
        return [context.shown() for context in self.by_id.values()]

    def get(self, identifier: str) -> Context:
        try:
            return self.by_id[identifier]
        except KeyError:
            raise NotFound(identifier) from None

    async def create(self, language: str, cwd: str) -> Context:
        context = self._new(language, cwd)
        try:
            await context.ready()
        except BaseException:
            await self._forget(context)
            raise
        return context

    def default(self, language: str) -> Context:
        """The context of this language that everybody shares; made on first use."""
        language = languages.canonical(language)
        return self.defaults.get(language) or self._default(language)

    async def restart(self, identifier: str) -> None:
        await self.get(identifier).restart()

    async def delete(self, identifier: str) -> None:
        await self._forget(self.get(identifier))

    async def _forget(self, context: Context) -> None:
        self.by_id.pop(context.id, None)
        if self.defaults.get(context.language) is context:
            del self.defaults[context.language]
        await context.delete()

    def _default(self, language: str) -> Context:
        context = self._new(language, HOME)
        self.defaults[context.language] = context
        return context

    def _new(self, language: str, cwd: str) -> Context:
        language = languages.canonical(language)
        there = languages.available()
        if language not in there:
            raise Refused(f"there is no language {language!r} here, only {', '.join(there)}")
        if len(self.by_id) >= MAX_CONTEXTS:
            raise Overloaded(f"there are {MAX_CONTEXTS} contexts already; delete some")
        # What can't be entered is no reason to have no context: code begins at home then, as with E2B.
        entered = cwd if os.path.isdir(cwd) and os.access(cwd, os.X_OK) else HOME
        context = Context(language, cwd, languages.kernel(language, entered))
        self.by_id[context.id] = context
        return context
