"""A sandbox's life, through the control API."""

import datetime
import threading
import time
import uuid

import pytest
from e2b import NotFoundException, Sandbox, SandboxException, SandboxQuery, SandboxState


def listed(query=None, **kwargs):
    paginator, items = Sandbox.list(query=query, **kwargs), []
    while paginator.has_next:
        items.extend(paginator.next_items())
    return items


def until(what, check, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def test_a_new_sandbox_runs_and_knows_itself(make):
    sandbox = make(metadata={"purpose": "test", "a b": "c&d"}, envs={"COLOUR": "blue"})
    assert sandbox.sandbox_id.startswith("i") and len(sandbox.sandbox_id) == 21
    assert sandbox.is_running()
    assert sandbox.commands.run("echo $COLOUR").stdout == "blue\n"
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.metadata == {"purpose": "test", "a b": "c&d"}
    assert info.state == SandboxState.RUNNING
    assert info.cpu_count == 1 and info.memory_mb == 512
    left = info.end_at - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(seconds=60) < left <= datetime.timedelta(seconds=125)


def test_lists_find_a_sandbox_by_its_labels_and_state(make):
    label = f"{time.time_ns()} & more=%20"
    first, second = make(metadata={"run": label}), make(metadata={"run": label})
    ids = {first.sandbox_id, second.sandbox_id}
    assert {item.sandbox_id for item in listed(SandboxQuery(metadata={"run": label}))} == ids
    first.pause()
    states = {SandboxState.PAUSED: first, SandboxState.RUNNING: second}
    for state, expected in states.items():
        found = listed(SandboxQuery(metadata={"run": label}, state=[state]))
        assert [item.sandbox_id for item in found] == [expected.sandbox_id], state
    pages = listed(SandboxQuery(metadata={"run": label}), limit=1)
    assert {item.sandbox_id for item in pages} == ids and len(pages) == 2


def test_a_killed_sandbox_is_gone(make):
    sandbox = make()
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert not sandbox.is_running()
    with pytest.raises(NotFoundException):
        Sandbox.connect(sandbox.sandbox_id)


def test_a_timeout_can_be_shortened_and_ends_the_sandbox(make):
    sandbox = make()
    sandbox.set_timeout(1)
    until("the sandbox to end", lambda: not sandbox.is_running())


def test_pause_keeps_everything_and_connect_wakes(make):
    sandbox = make()
    sandbox.files.write("/home/user/kept", "still here")
    process = sandbox.commands.run("sleep 1000", background=True)
    boot = sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    sandbox.pause()
    assert sandbox.get_info().state == SandboxState.PAUSED
    again = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert again.sandbox_id == sandbox.sandbox_id
    assert again.files.read("/home/user/kept") == "still here"
    assert again.commands.run("cat /proc/sys/kernel/random/boot_id").stdout == boot
    assert process.pid in [item.pid for item in again.commands.list()]
    # The handle from before goes on working: its token is the same.
    assert sandbox.files.read("/home/user/kept") == "still here"


def test_auto_pause_and_auto_resume(make):
    sandbox = make(lifecycle={"on_timeout": "pause", "auto_resume": True})
    sandbox.files.write("a", "1")
    sandbox.set_timeout(1)
    until("the sandbox to pause", lambda: sandbox.get_info().state == SandboxState.PAUSED)
    assert sandbox.files.read("a") == "1"
    assert sandbox.get_info().state == SandboxState.RUNNING


def test_what_wakes_by_itself_goes_on_although_its_time_was_up(make):
    sandbox = make(lifecycle={"on_timeout": "pause", "auto_resume": True})
    for _ in range(2):
        sandbox.set_timeout(0)
        until("the sandbox to pause", lambda: sandbox.get_info().state == SandboxState.PAUSED)
        assert sandbox.commands.run("echo on").stdout == "on\n"
        info = sandbox.get_info()
        assert (info.end_at - info.started_at).total_seconds() > 200, "it has time to be used"


def test_a_connect_gives_time_before_it_wakes(make):
    sandbox = make(lifecycle={"on_timeout": "pause"})
    for _ in range(5):
        sandbox.set_timeout(0)
        until("the sandbox to pause", lambda: not sandbox.is_running() and sandbox.get_info().state == SandboxState.PAUSED)
        Sandbox.connect(sandbox.sandbox_id, timeout=60)
        assert sandbox.commands.run("echo on").stdout == "on\n"


def test_whether_it_runs_can_be_asked_at_any_time_of_a_pause(make):
    sandbox = make()
    pausing = threading.Thread(target=sandbox.pause)
    pausing.start()
    until("the sandbox to be gone", lambda: not sandbox.is_running())
    pausing.join()
    assert sandbox.get_info().state == SandboxState.PAUSED and sandbox.pause() in (False, None)


def test_forks_come_to_their_own_end(make):
    sandbox = make()
    forks = sandbox.fork(count=2, timeout=5)
    assert all(isinstance(fork, Sandbox) for fork in forks), forks
    until("the forks to end", lambda: not any(fork.is_running() for fork in forks))
    assert sandbox.is_running()


def test_a_gateway_that_is_not_there_is_told_and_leaves_nothing(make):
    mark = {"run": uuid.uuid4().hex}
    with pytest.raises(Exception, match="Failed to start MCP gateway"):
        make(mcp={"time": {}}, metadata=mark)
    until("the sandbox to be gone", lambda: not Sandbox.list(query=SandboxQuery(metadata=mark)).next_items())


def test_what_is_not_there_is_told(make):
    with pytest.raises((NotFoundException, SandboxException)):
        make("no-such-template")
    with pytest.raises(NotFoundException):
        Sandbox.connect("i" + "0" * 20)


def test_snapshots_and_forks(make):
    parent = make()
    parent.files.write("state", "of the parent")
    snapshot = parent.create_snapshot()
    parent.files.write("state", "changed since")
    child = make(snapshot.snapshot_id)
    assert child.files.read("state") == "of the parent"
    assert child.commands.run("hostname").stdout != parent.commands.run("hostname").stdout
    assert Sandbox.delete_snapshot(snapshot.snapshot_id) is True
    assert Sandbox.delete_snapshot(snapshot.snapshot_id) is False
    assert child.files.read("state") == "of the parent"


def test_metrics_tell_of_the_sandbox(sandbox):
    metrics = sandbox.get_metrics()
    assert metrics and metrics[-1].cpu_count == 1
    assert metrics[-1].mem_total == 512 << 20 and 0 < metrics[-1].mem_used < metrics[-1].mem_total


def test_the_network_can_be_closed(make):
    sandbox = make(allow_internet_access=False)
    assert sandbox.get_info().allow_internet_access is False
    answer = sandbox.commands.run("timeout 2 bash -c 'exec 3<>/dev/tcp/203.0.113.1/80' || echo closed")
    assert answer.stdout == "closed\n"


def boot_of(sandbox):
    return sandbox.files.read("/proc/sys/kernel/random/boot_id")


def test_a_pause_of_the_files_alone_starts_anew(make):
    sandbox = make(envs={"COLOUR": "blue"})
    sandbox.files.write("kept", "still here")
    process = sandbox.commands.run("sleep 1000", background=True)
    boot = boot_of(sandbox)
    sandbox.pause(keep_memory=False)
    assert sandbox.get_info().state == SandboxState.PAUSED
    again = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert again.files.read("kept") == "still here"
    assert boot_of(again) != boot
    assert process.pid not in [item.pid for item in again.commands.list()]
    assert again.commands.run("echo $COLOUR").stdout == "blue\n"
    # The handle from before goes on working: its token is the same.
    assert sandbox.files.read("kept") == "still here"
    boot = boot_of(again)
    again.pause()
    assert boot_of(Sandbox.connect(sandbox.sandbox_id)) == boot


def test_a_timeout_can_pause_the_files_alone(make):
    sandbox = make(lifecycle={"on_timeout": {"action": "pause", "keep_memory": False}})
    sandbox.files.write("kept", "still here")
    boot = boot_of(sandbox)
    sandbox.set_timeout(1)
    until("the sandbox to pause", lambda: sandbox.get_info().state == SandboxState.PAUSED)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert again.files.read("kept") == "still here" and boot_of(again) != boot
    assert sandbox.kill() is True
