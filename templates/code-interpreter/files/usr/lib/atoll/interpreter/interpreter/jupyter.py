"""Kernels that speak Jupyter's protocol, over unix sockets in a directory of their own."""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from queue import Empty
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from . import wire
from .kernel import Emit, KernelDied, KernelFailed
from .lines import REST_SECONDS, Lines
from .processes import is_ending

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
START_SECONDS = 60
#: How often a kernel that says nothing is looked at.
LOOK_SECONDS = 0.25
#: How long output is waited for after the reply to an execution: what was published before it is on its way.
LAST_WORDS_SECONDS = 1.0


class OwnKernelManager(AsyncKernelManager):
    """One that takes its kernel from our folder, whatever is installed elsewhere under the same name."""

    spec: KernelSpec

    @property
    def kernel_spec(self) -> KernelSpec:
        return self.spec


class JupyterKernel:
    """`environment_in_metadata`: the kernel sets an execution's environment itself; otherwise it is told in R."""

    def __init__(self, name: str, cwd: str, environment_in_metadata: bool = False) -> None:
        self.cwd = cwd
        self.environment_in_metadata = environment_in_metadata
        specification = json.loads((KERNELS / name / "kernel.json").read_text())
        specification["argv"] = [part.replace("{kernels}", str(KERNELS)) for part in specification["argv"]]
        self.specification = KernelSpec(**specification)
        self.directory: str | None = None
        self.manager: OwnKernelManager | None = None
        self.client: Any = None
        self.pending: str | None = None
        self.has_changed_environment = False

    async def start(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="kernel-")
        context = zmq.asyncio.Context()
        # Output is never dropped: a lost message would be lost output, or an end that is never seen.
        context.rcvhwm = 0
        manager = OwnKernelManager(
            transport="ipc", context=context, connection_file=os.path.join(self.directory, "connection.json")
        )
        manager.spec = self.specification
        self.manager = manager
        try:
            await manager.start_kernel(cwd=self.cwd)
            self.client = manager.client()
            self.client.start_channels(stdin=False, hb=False)
            async with asyncio.timeout(START_SECONDS):
                await self._until_it_answers()
        except Exception as problem:
            await self.stop()
            raise KernelFailed(f"the kernel did not start: {problem or type(problem).__name__}") from problem

    async def _until_it_answers(self) -> None:
        """Asks until both ways are open: an answer to a request, and a message among those that are published."""
        answered = published = False
        while not (answered and published):
            self.client.kernel_info()
            if not answered:
                answered = await self._arrives(self.client.get_shell_msg)
            if not published:
                published = await self._arrives(self.client.get_iopub_msg)
            if not (answered or await self.manager.is_alive()):
                raise KernelDied("it ended at once")
        await self.settle_now()

    @staticmethod
    async def _arrives(get: Any) -> bool:
        try:
            await get(timeout=LOOK_SECONDS)
            return True
        except Empty:
            return False

    async def settle_now(self) -> None:
        """Throws away what has arrived."""
        for get in (self.client.get_shell_msg, self.client.get_iopub_msg):
            try:
                while True:
                    await get(timeout=0)
            except Empty:
                pass

    def alive(self) -> bool:
        process = getattr(self.manager.provisioner, "process", None) if self.manager else None
        return process is not None and process.poll() is None and not is_ending(process.pid)

    async def execute(self, code: str, env: Mapping[str, str], emit: Emit) -> None:
        if env and not self.environment_in_metadata:
            self.has_changed_environment = True
            await self._run(_r_set(env), {}, None)
        try:
            await self._run(code, {"env": dict(env)} if self.environment_in_metadata and env else {}, emit)
        finally:
            # What was interrupted is settled first.
            if self.pending is None:
                await self._restore_environment()

    async def _restore_environment(self) -> None:
        if self.has_changed_environment and self.alive():
            self.has_changed_environment = False
            await self._run(_R_RESTORE, {}, None)

    async def _run(self, code: str, metadata: dict[str, Any], emit: Emit | None) -> None:
        """One request, to its end. Without `emit` it leaves no trace in the history."""
        content = {
            "code": code,
            "silent": emit is None,
            "store_history": emit is not None,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        await self._has_replied("")  # what earlier requests were answered is of no use any more
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.pending = message["header"]["msg_id"]
        self.client.shell_channel.send(message)
        await self._follow(self.pending, emit)
        self.pending = None

    async def _follow(self, request: str, emit: Emit | None) -> None:
        lines = Lines(emit) if emit else None
        try:
            await self._hear(request, lines)
        except KernelDied:
            if lines:
                await lines.flush()
            raise
        if lines:
            await lines.flush()

    async def _hear(self, request: str, lines: Lines | None) -> None:
        replied_at = None
        clock = asyncio.get_running_loop().time
        while True:
            try:
                rest = lines is not None and lines.held is not None
                message = await self.client.get_iopub_msg(timeout=REST_SECONDS if rest else LOOK_SECONDS)
            except Empty:
                if lines and rest:
                    await lines.flush()
                    continue
                if not self.alive():
                    raise KernelDied from None
                if replied_at is None and await self._has_replied(request):
                    replied_at = clock()
                elif replied_at is not None and clock() - replied_at > LAST_WORDS_SECONDS:
                    return
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return
            event = _event(kind, content)
            if event and lines:
                await lines.take(event)

    async def _has_replied(self, request: str) -> bool:
        try:
            while True:
                message = await self.client.get_shell_msg(timeout=0)
                if message["parent_header"].get("msg_id") == request:
                    return True
        except Empty:
            return False

    async def interrupt(self) -> None:
        if self.manager and self.alive():
            await self.manager.interrupt_kernel()

    async def settle(self) -> None:
        if self.pending:
            await self._follow(self.pending, None)
            self.pending = None
        await self._restore_environment()

    async def stop(self) -> None:
        manager, client, directory = self.manager, self.client, self.directory
        self.manager = self.client = self.directory = self.pending = None
        self.has_changed_environment = False
        if client:
            client.stop_channels()
        if manager:
            try:
                await manager.shutdown_kernel(now=True)
            finally:
                manager.context.destroy(linger=0)
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


def _event(kind: str, content: dict[str, Any]) -> wire.Event | None:
    match kind:
        case "stream":
            return wire.output("stderr" if content["name"] == "stderr" else "stdout", content["text"])
        case "execute_result":
            return wire.result(content["data"], main=True)
        case "display_data" | "update_display_data":
            return wire.result(content["data"], main=False)
        case "error":
            return wire.error(content["ename"], content["evalue"], "\n".join(content["traceback"]))
        case "execute_input":
            return wire.executions(content["execution_count"])
    return None


def _r_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _r_set(env: Mapping[str, str]) -> str:
    names = ", ".join(map(_r_text, env))
    pairs = ", ".join(f"{_r_text(name)} = {_r_text(value)}" for name, value in env.items())
    return f"options(atoll.before = Sys.getenv(c({names}), unset = NA, names = TRUE)); Sys.setenv({pairs})"


_R_RESTORE = """local({
    before <- getOption("atoll.before")
    options(atoll.before = NULL)
    Sys.unsetenv(names(before)[is.na(before)])
    there <- before[!is.na(before)]
    if (length(there)) do.call(Sys.setenv, as.list(there))
})"""
