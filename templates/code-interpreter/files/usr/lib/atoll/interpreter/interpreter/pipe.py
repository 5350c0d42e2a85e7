"""Kernels of our own: a process with a socket as descriptor 3 that takes code and says when it is done.

What the process and its children print is read from pipes, so that it needs no help of the kernel. All output that was
written before the kernel said "done" is passed on before the execution ends.

Three ways to talk over the socket, chosen by what the language can do with little:

    JsonPipe   a line of JSON per message. To the kernel: {"code", "env"}. From it: {"result": {mime: value}, "main"},
               {"error": {"name", "value", "traceback"}}, and {"done": true} at the end.
    JavaPipe   the same from it; to it, texts that end in a zero byte: how many variables, their names and values, the code.
    BashPipe   texts that end in a zero byte. To the kernel: assignments, then code. From it: the exit status.
"""

import asyncio
import codecs
import json
import os
import shlex
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from . import wire
from .kernel import Emit, KernelDied, KernelFailed
from .processes import is_ending

START_SECONDS = 60
STOP_SECONDS = 2
CHUNK = 64 << 10
LOOK_SECONDS = 0.25
#: How long the rest of a line is waited for.
HOLD_SECONDS = 0.05
#: Puts the socket, which is the standard input at first, where a kernel looks for it.
PLACED = 'exec "$@" 3<&0 </dev/null'


class Done(Exception):
    """The execution has ended."""


class Pipe(Protocol):
    """How one kernel is spoken to."""

    separator: bytes
    #: The end of a line is said by itself, as Java's streams have it.
    ends_apart: bool

    def request(self, code: str, env: Mapping[str, str]) -> bytes: ...

    def events(self, message: bytes) -> Iterator[wire.Event]:
        """What a message says. Raises Done with the last one."""


class JsonPipe:
    separator = b"\n"
    ends_apart = False

    def request(self, code: str, env: Mapping[str, str]) -> bytes:
        return json.dumps({"code": code, "env": dict(env)}).encode() + b"\n"

    def events(self, message: bytes) -> Iterator[wire.Event]:
        said = json.loads(message)
        if error := said.get("error"):
            yield wire.error(error["name"], error["value"], error["traceback"])
        elif bundle := said.get("result"):
            if event := wire.result(bundle, main=said.get("main", False)):
                yield event
        if said.get("done"):
            raise Done


class JavaPipe(JsonPipe):
    ends_apart = True

    def request(self, code: str, env: Mapping[str, str]) -> bytes:
        return _texts(str(len(env)), *(text for pair in env.items() for text in pair), code)


class BashPipe:
    separator = b"\0"
    ends_apart = False

    def request(self, code: str, env: Mapping[str, str]) -> bytes:
        assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in env.items())
        return _texts(assignments, " ".join(env), code)

    def events(self, message: bytes) -> Iterator[wire.Event]:
        if message != b"0":
            status = message.decode()
            yield wire.error("ExitStatus", f"exit status {status}", f"the last command ended with exit status {status}")
        raise Done


def _texts(*texts: str) -> bytes:
    return b"".join(text.replace("\0", "").encode(errors="replace") + b"\0" for text in texts)


class Output:
    """One stream of what is printed: bytes become text, and a line that isn't over yet is held for a moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held = ""

    def lines(self, chunk: bytes) -> str:
        """The lines that are whole with this piece."""
        text = self.held + self.decoder.decode(chunk)
        end = len(text) if len(text) > CHUNK else text.rfind("\n") + 1
        self.held = text[end:]
        return text[:end]


class PipeKernel:
    def __init__(self, command: Sequence[str], cwd: str, pipe: type[Pipe]) -> None:
        self.command = command
        self.cwd = cwd
        self.pipe = pipe()
        self.process: asyncio.subprocess.Process | None = None
        self.control: socket.socket | None = None
        #: What is printed, by the read end of its pipe.
        self.outputs: dict[int, Output] = {}
        self.received = b""
        self.count = 0
        self.busy = False
        self.idle: asyncio.Task[None] | None = None

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        pipes = {"stdout": os.pipe2(os.O_CLOEXEC), "stderr": os.pipe2(os.O_CLOEXEC)}
        try:
            self.process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", PLACED, "sh"),
                *self.command,
                cwd=self.cwd,
                stdin=theirs,
                stdout=pipes["stdout"][1],
                stderr=pipes["stderr"][1],
                start_new_session=True,
            )
        except OSError as problem:
            ours.close()
            for read, _ in pipes.values():
                os.close(read)
            raise KernelFailed(f"{self.command[0]} did not start: {problem}") from problem
        finally:
            theirs.close()
            for _, write in pipes.values():
                os.close(write)
        self.control = ours
        self.received = b""
        for name, (read, _) in pipes.items():
            os.set_blocking(read, False)
            self.outputs[read] = Output(name)
        try:
            # The first execution costs what the process takes to begin.
            async with asyncio.timeout(START_SECONDS):
                await self._run("", {}, _ignore)
        except (KernelDied, TimeoutError) as problem:
            await self.stop()
            raise KernelFailed(f"{self.command[0]} ended or hung as it started") from problem
        self._rest()

    def alive(self) -> bool:
        process = self.process
        return process is not None and process.returncode is None and not is_ending(process.pid)

    async def execute(self, code: str, env: Mapping[str, str], emit: Emit) -> None:
        await self._wake()
        self.count += 1
        await emit(wire.executions(self.count))
        await self._run(code, env, emit)
        self._rest()

    async def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    async def settle(self) -> None:
        if self.busy:
            await self._follow(_ignore)
            self._rest()

    async def stop(self) -> None:
        await self._wake()
        self._signal(signal.SIGKILL)
        if self.process:
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()
        if self.control:
            self.control.close()
        for read in self.outputs:
            os.close(read)
        self.process = self.control = None
        self.outputs = {}
        self.busy = False

    def _signal(self, number: int) -> None:
        """To the kernel and all that it has started."""
        if self.process:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    async def _run(self, code: str, env: Mapping[str, str], emit: Emit) -> None:
        self.busy = True
        try:
            await asyncio.get_running_loop().sock_sendall(self.control, self.pipe.request(code, env))
        except OSError as problem:
            raise KernelDied from problem
        await self._follow(emit)

    async def _follow(self, emit: Emit) -> None:
        """Passes on what is said until the execution has ended."""
        while True:
            within = HOLD_SECONDS if any(output.held for output in self.outputs.values()) else LOOK_SECONDS
            came = await _readable(self.control.fileno(), *self.outputs, within=within)
            # Whoever inherited the socket would keep it open: the process itself is looked at, too.
            if not came and not self.alive():
                raise KernelDied
            await self._print(emit, all_of_it=False)
            if not came:
                await self._flush(emit)
            try:
                ended = await self._listen(emit)
            except KernelDied:
                await self._print(emit)
                raise
            if ended:
                await self._print(emit)
                self.busy = False
                return

    async def _listen(self, emit: Emit) -> bool:
        """Takes what the kernel says, without waiting; whether the execution has ended."""
        try:
            received = self.control.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError as problem:
            raise KernelDied from problem
        if not received:
            raise KernelDied
        *messages, self.received = (self.received + received).split(self.pipe.separator)
        for message in messages:
            try:
                for event in self.pipe.events(message):
                    await emit(event)
            except Done:
                return True
        return False

    async def _print(self, emit: Emit, all_of_it: bool = True) -> None:
        """Passes on what is in the pipes: whole lines of one piece of each, or all of it. One that has ended is closed."""
        for descriptor, output in tuple(self.outputs.items()):
            while chunk := _read(descriptor):
                lines = output.lines(chunk)
                end = lines[-1:] if self.pipe.ends_apart and lines[:-1] else ""
                for text in filter(None, (lines.removesuffix(end), end)):
                    await emit(wire.output(output.name, text))
                if not all_of_it:
                    break
            if chunk == b"":
                del self.outputs[descriptor]
                os.close(descriptor)
                await self._say(output, emit)
        if all_of_it:
            await self._flush(emit)

    async def _flush(self, emit: Emit) -> None:
        for output in tuple(self.outputs.values()):
            await self._say(output, emit)

    @staticmethod
    async def _say(output: "Output", emit: Emit) -> None:
        if output.held:
            held, output.held = output.held, ""
            await emit(wire.output(output.name, held))

    def _rest(self) -> None:
        self.idle = asyncio.create_task(self._discard())

    async def _wake(self) -> None:
        if self.idle:
            self.idle.cancel()
            await asyncio.wait({self.idle})
            self.idle = None

    async def _discard(self) -> None:
        """What is printed between executions has no reader; unread, it would hold up who prints it."""
        while self.outputs:
            await _readable(*self.outputs)
            await self._print(_ignore)


async def _ignore(_event: wire.Event) -> None:
    pass


def _read(descriptor: int) -> bytes | None:
    """A piece of what is there; nothing when there is none yet, no bytes at the end."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None


async def _readable(*descriptors: int, within: float | None = None) -> bool:
    """Ends when one of them has something, or has ended; or after so many seconds. Whether one has."""
    loop = asyncio.get_running_loop()
    seen = loop.create_future()
    for descriptor in descriptors:
        loop.add_reader(descriptor, lambda: seen.done() or seen.set_result(None))
    try:
        done, _ = await asyncio.wait({seen}, timeout=within)
        return bool(done)
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
