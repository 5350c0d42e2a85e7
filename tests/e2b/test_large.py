"""Much at once, and for long: what streams has no size. The whole sizes of the promise are for a run of its own:

ATOLL_E2B_LARGE_MB=2048 scripts/with-atoll.sh scripts/e2b.sh python -k large
ATOLL_STREAM_SECONDS=3600 scripts/with-atoll.sh scripts/e2b.sh python -k stream_goes_on
"""

import asyncio
import hashlib
import os
import threading
import uuid

import pytest
from e2b import AsyncSandbox, AsyncTemplate, PtySize, Sandbox

MEGABYTE = 1 << 20
LARGE = int(os.environ.get("ATOLL_E2B_LARGE_MB", "512"))
SECONDS = int(os.environ.get("ATOLL_STREAM_SECONDS", "5"))
LINES_A_SECOND = 4
# What the server and its host agent may grow by while a file of any size goes through them.
GROWTH = 96 * MEGABYTE


def resident():
    """Bytes in memory of the Atoll under test: nothing else may run beside a test that asks (`alone`)."""
    with open(f"/proc/{os.environ['ATOLL_PID']}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@pytest.mark.alone
def test_large_files_stream_both_ways_and_no_memory_is_taken(make, tmp_path):
    sandbox = make(timeout=1800)
    local, wanted = tmp_path / "large", hashlib.sha256()
    with open(local, "wb") as file:
        for number in range(LARGE):
            piece = number.to_bytes(8, "big") * (MEGABYTE // 8)
            wanted.update(piece)
            file.write(piece)
    before = resident()
    with open(local, "rb") as file:
        sandbox.files.write("large", file, request_timeout=1700)
    local.unlink()
    assert sandbox.files.get_info("large").size == LARGE * MEGABYTE
    found, most = hashlib.sha256(), resident()
    for piece in sandbox.files.read("large", format="stream", request_timeout=1700):
        found.update(piece)
        most = max(most, resident())
    assert found.hexdigest() == wanted.hexdigest()
    assert most - before < GROWTH, f"grew by {(most - before) >> 20} MB over {LARGE} MB"


def test_large_output_comes_whole_and_in_order(sandbox):
    lines = []
    done = sandbox.commands.run("seq 1 200000", on_stdout=lines.append, timeout=300)
    assert done.stdout == "".join(lines) == "".join(f"{number}\n" for number in range(1, 200_001))


# Prints a numbered line at each tick of a clock that doesn't drift, one to each of its outputs in turn.
PRINTER = """
import sys, time
count, pause = int(sys.argv[1]), float(sys.argv[2])
start = time.monotonic()
for number in range(1, count + 1):
    time.sleep(max(0, start + number * pause - time.monotonic()))
    print(f"line {number} of {count}", file=(sys.stderr if number % 2 else sys.stdout), flush=True)
"""


class Watcher(threading.Thread):
    """Samples the memory of the Atoll under test until it is told to stop."""

    def __init__(self):
        super().__init__(daemon=True)
        self.done, self.samples = threading.Event(), [resident()]

    def run(self):
        while not self.done.wait(5):
            self.samples.append(resident())

    def growth(self):
        """What the most is above the first after what a start takes: after the first tenth."""
        self.done.set()
        settled = self.samples[len(self.samples) // 10 :]
        return max(settled) - settled[0]


@pytest.mark.alone
def test_a_stream_goes_on_for_as_long_as_its_program_does(make):
    sandbox = make(timeout=SECONDS + 300)
    sandbox.files.write("printer.py", PRINTER)
    count = SECONDS * LINES_A_SECOND
    command = f"exec python3 printer.py {count} {1 / LINES_A_SECOND}"
    live, watcher = [], Watcher()
    watcher.start()
    done = sandbox.commands.run(
        command, on_stdout=live.append, on_stderr=live.append, timeout=SECONDS + 200, request_timeout=60
    )
    growth = watcher.growth()
    wanted = [f"line {number} of {count}" for number in range(1, count + 1)]
    assert done.exit_code == 0 and done.error in (None, "")
    assert done.stderr.splitlines() == wanted[0::2] and done.stdout.splitlines() == wanted[1::2]
    shown = sorted("".join(live).splitlines(), key=lambda line: int(line.split()[1]))
    assert shown == wanted, "what was shown while it ran is the same"
    assert growth < GROWTH, f"grew by {growth >> 20} MB in {SECONDS} s"
    print(f"{count} lines in {SECONDS} s, none lost; memory from {min(watcher.samples) >> 20} to {max(watcher.samples) >> 20} MB")


def test_a_thousand_watches_each_see_their_own(sandbox):
    sandbox.commands.run("mkdir -p w; cd w; mkdir $(seq 1000)")
    watches = [sandbox.files.watch_dir(f"w/{number}") for number in range(1, 1001)]
    sandbox.commands.run("cd w; for i in $(seq 1000); do echo > $i/of-$i; done")
    for number, watch in enumerate(watches, 1):
        assert {event.name for event in watch.get_new_events()} == {f"of-{number}"}
        watch.stop()


async def test_a_thousand_open_streams_of_watches_each_see_their_own():
    sandbox = await AsyncSandbox.create(timeout=600)
    try:
        await sandbox.commands.run("mkdir -p w; cd w; mkdir $(seq 1000)")
        seen = {number: set() for number in range(1, 1001)}

        async def watch(number):
            return await sandbox.files.watch_dir(
                f"w/{number}", on_event=lambda event: seen[number].add(event.name), timeout=0, request_timeout=120
            )

        handles = []
        for begin in range(1, 1001, 100):
            handles += await asyncio.gather(*(watch(number) for number in range(begin, begin + 100)))
        await sandbox.commands.run("cd w; for i in $(seq 1000); do echo > $i/of-$i; done")
        deadline = asyncio.get_running_loop().time() + 60
        while missing := [number for number, names in seen.items() if names != {f"of-{number}"}]:
            assert asyncio.get_running_loop().time() < deadline, f"{len(missing)} saw something else, {seen[missing[0]]}"
            await asyncio.sleep(0.1)
        await asyncio.gather(*(handle.stop() for handle in handles))
    finally:
        await sandbox.kill()


async def test_two_hundred_terminals_at_once():
    name = f"roomy-{uuid.uuid4().hex}"
    await AsyncTemplate.build(AsyncTemplate().from_template("base"), name, memory_mb=2048)
    sandbox = await AsyncSandbox.create(name, timeout=300)
    try:

        async def terminal(number):
            shown = bytearray()
            handle = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=shown.extend, timeout=200)
            return handle, shown, number

        opened = await asyncio.gather(*(terminal(number) for number in range(200)))
        assert len({handle.pid for handle, _, _ in opened}) == 200
        await asyncio.gather(
            *(sandbox.pty.send_stdin(handle.pid, b"echo $((%d+1000000)); exit\n" % number) for handle, _, number in opened)
        )
        for handle, shown, number in opened:
            await handle.wait()
            assert b"%d" % (number + 1_000_000) in shown
    finally:
        await sandbox.kill()
        await AsyncSandbox.delete_snapshot(name)


def test_a_kill_ends_open_streams_and_then_the_sandbox_is_told_to_be_gone(make):
    sandbox = make()
    seen = []
    command = sandbox.commands.run("echo on; sleep 1000", background=True)
    for stdout, _, _ in command:
        seen.append(stdout)
        break
    Sandbox.kill(sandbox.sandbox_id)
    with pytest.raises(Exception) as told:
        command.wait()
    assert "killed" in str(told.value) or "timeout" in type(told.value).__name__.lower(), repr(told.value)
    assert seen == ["on\n"] and not sandbox.is_running()
