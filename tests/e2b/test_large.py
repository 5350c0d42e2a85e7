"""Much at once, and for long: what streams has no size. The whole sizes of the promise are for a run of its own:

ATOLL_E2B_LARGE_MB=2048 ATOLL_E2B_STREAM_SECONDS=3600 scripts/with-atoll.sh scripts/e2b.sh python -k large
"""

import asyncio
import hashlib
import os
import uuid

import pytest
from e2b import AsyncSandbox, AsyncTemplate, PtySize, Sandbox

MEGABYTE = 1 << 20
LARGE = int(os.environ.get("ATOLL_E2B_LARGE_MB", "512"))
SECONDS = int(os.environ.get("ATOLL_E2B_STREAM_SECONDS", "5"))
# What the server and its host agent may grow by while a file of any size goes through them.
GROWTH = 96 * MEGABYTE


def resident():
    """Bytes in memory of the Atoll under test."""
    with open(f"/proc/{os.environ['ATOLL_PID']}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


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


def test_a_stream_goes_on_for_as_long_as_its_program_does(make):
    sandbox = make(timeout=SECONDS + 120)
    script = f"for i in $(seq {SECONDS}); do echo $i; sleep 1; done"
    done = sandbox.commands.run(script, timeout=SECONDS + 100)
    assert done.stdout.split() == [str(number) for number in range(1, SECONDS + 1)]


def test_a_thousand_watches_each_see_their_own(sandbox):
    sandbox.commands.run("mkdir -p w; cd w; mkdir $(seq 1000)")
    watches = [sandbox.files.watch_dir(f"w/{number}") for number in range(1, 1001)]
    sandbox.commands.run("cd w; for i in $(seq 1000); do echo > $i/of-$i; done")
    for number, watch in enumerate(watches, 1):
        assert {event.name for event in watch.get_new_events()} == {f"of-{number}"}
        watch.stop()


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
