"""Pauses, snapshots and forks of virtual machines: of what they keep in memory, and of their files alone.

ATOLL_DRIVER=vm scripts/with-atoll.sh scripts/e2b.sh python -k test_machines

Without KVM a machine boots for ten seconds and more, so these are few.
"""

import asyncio
import json
import os
import urllib.request
import uuid

import e2b
import pytest
from e2b import AsyncSandbox, Sandbox, SandboxQuery, SandboxState, Template, Volume

pytestmark = pytest.mark.skipif(os.environ.get("ATOLL_DRIVER") != "vm", reason="of virtual machines alone")
SLOW = {"request_timeout": 280}
# Holds a number that lies nowhere but in its memory, and says it when it is asked.
HOLDER = """
import signal, sys, time
said = sys.argv[1]
def say(*_):
    with open("/tmp/said", "w") as file:
        file.write(said)
signal.signal(signal.SIGUSR1, say)
open("/tmp/ready", "w").close()
while True:
    time.sleep(1000)
"""
BOOT = "/proc/sys/kernel/random/boot_id"


def driver_of(sandbox):
    """What Atoll's own API says of it."""
    url = f"{os.environ['ATOLL_URL']}/v1/sandboxes/sb-{sandbox.sandbox_id[1:]}"
    request = urllib.request.Request(url, headers={"X-API-Key": os.environ["ATOLL_API_KEY"]})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["driver"]


@pytest.fixture
def machine(make):
    """A virtual machine with a program that holds a secret in memory."""
    sandbox = make(timeout=900, **SLOW)
    assert driver_of(sandbox) == "vm"
    sandbox.files.write("holder.py", HOLDER)
    word = uuid.uuid4().hex
    holder = sandbox.commands.run(f"exec python3 holder.py {word}", background=True, timeout=0)
    sandbox.commands.run("until test -e /tmp/ready; do sleep 0.1; done", timeout=120)
    return sandbox, holder.pid, word


def said(sandbox, pid):
    """What the program holds in memory, of this sandbox; nothing when it doesn't run."""
    ask = f"rm -f /tmp/said; kill -USR1 {pid} || exit 0; for i in $(seq 100); do test -s /tmp/said && break; sleep 0.1; done"
    return sandbox.commands.run(f"{ask}; cat /tmp/said", timeout=60).stdout


def test_a_machines_pause_keeps_its_memory_and_a_request_wakes_it(machine):
    sandbox, pid, word = machine
    boot = sandbox.files.read(BOOT)
    sandbox.files.write("kept", "still here")
    assert sandbox.pause(**SLOW) is True and sandbox.pause(**SLOW) is False
    assert sandbox.get_info().state == SandboxState.PAUSED and not sandbox.is_running()
    listed = Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED])).next_items()
    assert sandbox.sandbox_id in [item.sandbox_id for item in listed]
    again = Sandbox.connect(sandbox.sandbox_id, timeout=600, **SLOW)
    assert said(again, pid) == word and again.files.read(BOOT) == boot
    # The handle from before goes on working: its token is the same.
    assert sandbox.files.read("kept") == "still here"
    sandbox.pause(**SLOW)
    assert sandbox.kill() is True and sandbox.kill() is False


def test_a_machines_pause_of_the_files_alone_boots_anew(machine):
    sandbox, pid, _ = machine
    boots = [sandbox.files.read(BOOT)]
    sandbox.files.write("kept", "still here")
    sandbox.pause(keep_memory=False, **SLOW)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=600, **SLOW)
    boots.append(again.files.read(BOOT))
    assert pid not in [item.pid for item in again.commands.list()]
    again.pause(**SLOW)
    if hasattr(e2b, "AsyncCommandInputHandle"):
        # Memory was kept, and is not wanted.
        again.connect(timeout=600, on_resume="reboot", **SLOW)
        boots.append(again.files.read(BOOT))
    else:
        again.connect(timeout=600, **SLOW)
        assert again.files.read(BOOT) == boots[-1]
    assert len(set(boots)) == len(boots) and again.files.read("kept") == "still here"


def test_a_machines_snapshot_and_its_forks_go_on_from_its_memory(machine):
    sandbox, pid, word = machine
    sandbox.files.write("state", "of the parent")
    snapshot = sandbox.create_snapshot(**SLOW)
    sandbox.files.write("state", "changed since")
    child = Sandbox.create(snapshot.snapshot_id, timeout=600, **SLOW)
    try:
        assert said(child, pid) == word and child.files.read("state") == "of the parent"
        assert child.commands.run("hostname").stdout != sandbox.commands.run("hostname").stdout
    finally:
        child.kill()
    assert Sandbox.delete_snapshot(snapshot.snapshot_id) is True
    forks = sandbox.fork(count=2, timeout=600, **SLOW)
    try:
        assert len(forks) == 2 and all(isinstance(fork, Sandbox) for fork in forks), forks
        for fork in forks:
            assert said(fork, pid) == word and fork.files.read("state") == "changed since"
        forks[0].files.write("state", "its own")
        assert forks[1].files.read("state") == sandbox.files.read("state") == "changed since"
    finally:
        for fork in forks:
            fork.kill()
    assert said(sandbox, pid) == word


async def test_a_machine_the_same_without_waiting():
    sandbox = await AsyncSandbox.create(timeout=900, lifecycle={"on_timeout": "pause", "auto_resume": True}, **SLOW)
    try:
        boot = await sandbox.files.read(BOOT)
        (fork,) = await sandbox.fork(timeout=600, **SLOW)
        # A copy is another machine to whoever asks it.
        assert await fork.files.read(BOOT) != boot and await fork.kill() is True
        await sandbox.set_timeout(1)
        deadline = asyncio.get_running_loop().time() + 120
        while (await sandbox.get_info()).state != SandboxState.PAUSED:
            assert asyncio.get_running_loop().time() < deadline, "it is not paused at its end"
            await asyncio.sleep(0.2)
        assert await sandbox.files.read(BOOT, request_timeout=120) == boot, "a request has woken it up"
    finally:
        await sandbox.kill()


def test_templates_are_built_where_there_are_machines_alone(make, tmp_path):
    """Each step in a machine; what comes of it is the disk of others, and a later build goes on from it."""
    (tmp_path / "brought").write_text("from outside\n")
    name, lines = f"machined-{uuid.uuid4().hex}", []
    recipe = Template(file_context_path=tmp_path).from_template("base").copy("brought", "brought")
    recipe = recipe.run_cmd("cat brought > both; echo and built >> both").set_envs({"SET": "by the recipe"})
    Template.build(recipe, name, on_build_logs=lines.append)
    said = " ".join(str(line) for line in lines)
    assert "virtual machine" in said, said
    sandbox = make(name, timeout=900, **SLOW)
    assert driver_of(sandbox) == "vm"
    assert sandbox.commands.run("cat both; echo $SET", timeout=120).stdout == "from outside\nand built\nby the recipe\n"
    # What it has in common with the first is not built again, and a template may stand on another.
    more, lines = f"more-{uuid.uuid4().hex}", []
    Template.build(recipe.run_cmd("echo more >> both"), more, on_build_logs=lines.append)
    assert any("as it was built before" in str(line) for line in lines), lines
    third = f"third-{uuid.uuid4().hex}"
    Template.build(Template().from_template(more).run_cmd("echo third >> both"), third)
    last = make(third, timeout=900, **SLOW)
    assert last.commands.run("tail -n 2 both", timeout=120).stdout == "more\nthird\n"
    for template in (name, more, third):
        assert Sandbox.delete_snapshot(template) is True


def test_the_code_interpreter_runs_in_a_machine(make):
    sandbox = make("code-interpreter-v1", timeout=900, **SLOW)
    assert driver_of(sandbox) == "vm"
    ask = "until curl -fs -o /dev/null http://127.0.0.1:49999/health; do sleep 1; done; "
    ask += """curl -fsS -H 'Content-Type: application/json' -d '{"code": "6 * 7"}' http://127.0.0.1:49999/execute"""
    lines = [json.loads(line) for line in sandbox.commands.run(ask, timeout=280, **SLOW).stdout.splitlines()]
    results = [line["text"] for line in lines if line["type"] == "result"]
    assert results == ["42"], lines


def test_a_volume_is_there_through_a_pause_and_in_the_next_machine(make):
    volume = Volume.create(f"machines-{uuid.uuid4().hex[:8]}")
    try:
        first = make(timeout=900, volume_mounts={"/mnt/data": volume}, **SLOW)
        assert driver_of(first) == "vm"
        first.files.write("/mnt/data/kept.txt", "kept")
        # Without a sandbox, and back.
        assert volume.read_file("kept.txt") == "kept"
        volume.write_file("sent.txt", "sent")
        assert first.files.read("/mnt/data/sent.txt") == "sent"
        first.pause(**SLOW)
        volume.write_file("meanwhile.txt", "meanwhile")
        first = Sandbox.connect(first.sandbox_id, **SLOW)
        assert first.commands.run("cat /mnt/data/*.txt").stdout == "keptmeanwhilesent"
        first.kill()
        second = make(timeout=900, volume_mounts={"/srv/same": volume.name}, **SLOW)
        assert second.files.read("/srv/same/meanwhile.txt") == "meanwhile"
        second.kill()
    finally:
        Volume.destroy(volume.volume_id)
