"""The same through the SDK's asynchronous half: every public class, happy and failing."""

import asyncio
import uuid

import pytest
from e2b import (
    AsyncSandbox,
    AsyncTemplate,
    BuildException,
    CommandExitException,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    SandboxQuery,
    SandboxState,
    Template,
    TimeoutException,
)


async def until(what, check, seconds=30):
    deadline = asyncio.get_running_loop().time() + seconds
    while not await check():
        assert asyncio.get_running_loop().time() < deadline, f"waited {seconds} s in vain for {what}"
        await asyncio.sleep(0.1)


@pytest.fixture
async def make():
    made = []

    async def create(*args, **kwargs):
        kwargs.setdefault("timeout", 120)
        sandbox = await AsyncSandbox.create(*args, **kwargs)
        made.append(sandbox)
        return sandbox

    yield create
    await asyncio.gather(*(sandbox.kill() for sandbox in made))


@pytest.fixture
async def sandbox(make):
    return await make()


async def test_the_whole_of_a_short_life(make):
    sandbox = await make(metadata={"run": uuid.uuid4().hex}, envs={"COLOUR": "blue"})
    assert (await sandbox.commands.run("echo $COLOUR")).stdout == "blue\n"
    info = await sandbox.get_info()
    assert (info.sandbox_id, info.state) == (sandbox.sandbox_id, SandboxState.RUNNING)
    await sandbox.files.write("a", "b")
    await sandbox.pause()
    assert (await sandbox.get_info()).state == SandboxState.PAUSED
    query = SandboxQuery(metadata=info.metadata, state=[SandboxState.PAUSED])
    listed = await AsyncSandbox.list(query=query).next_items()
    assert [item.sandbox_id for item in listed] == [sandbox.sandbox_id]
    again = await AsyncSandbox.connect(sandbox.sandbox_id)
    assert await again.files.read("a") == "b"
    assert await again.is_running()
    await sandbox.set_timeout(300)
    assert (await sandbox.get_info()).end_at > info.end_at
    metrics = await sandbox.get_metrics()
    assert metrics and metrics[-1].mem_total == info.memory_mb << 20
    await sandbox.update_network({"deny_out": ["0.0.0.0/0"]})
    assert await sandbox.kill() is True
    assert await sandbox.kill() is False
    assert not await sandbox.is_running()
    with pytest.raises(NotFoundException):
        await AsyncSandbox.connect(sandbox.sandbox_id)


async def test_snapshots_and_forks(make):
    parent = await make()
    await parent.files.write("state", "of the parent")
    name = f"snap-{uuid.uuid4().hex}"
    snapshot = await parent.create_snapshot(name=name)
    assert name in snapshot.names
    listed = await AsyncSandbox.list_snapshots(sandbox_id=parent.sandbox_id).next_items()
    assert [item.snapshot_id for item in listed] == [snapshot.snapshot_id]
    child = await make(snapshot.snapshot_id)
    assert await child.files.read("state") == "of the parent"
    forks = await parent.fork(count=2, timeout=60)
    for fork in forks:
        assert await fork.files.read("state") == "of the parent"
        assert await fork.kill() is True
    assert await AsyncSandbox.delete_snapshot(snapshot.snapshot_id) is True
    assert await AsyncSandbox.delete_snapshot(snapshot.snapshot_id) is False


async def test_commands(sandbox):
    with pytest.raises(CommandExitException) as failed:
        await sandbox.commands.run("echo half; exit 3")
    assert (failed.value.exit_code, failed.value.stdout) == (3, "half\n")
    with pytest.raises(InvalidArgumentException):
        await sandbox.commands.run("true", cwd="/no/such/place")
    with pytest.raises(TimeoutException):
        await sandbox.commands.run("sleep 60", timeout=1)
    seen = []
    command = await sandbox.commands.run("cat", background=True, stdin=True, on_stdout=seen.append)
    await sandbox.commands.send_stdin(command.pid, "hello\n")
    assert command.pid in [item.pid for item in await sandbox.commands.list()]
    await sandbox.commands.close_stdin(command.pid)
    assert (await command.wait()).stdout == "hello\n" and seen == ["hello\n"]
    assert await sandbox.commands.kill(command.pid) is False
    background = await sandbox.commands.run("sleep 1000", background=True)
    again = await sandbox.commands.connect(background.pid)
    assert await again.kill() is True
    with pytest.raises(CommandExitException):
        await background.wait()
    with pytest.raises(NotFoundException):
        await sandbox.commands.connect(999_999)


async def test_terminals(sandbox):
    shown = []
    terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=shown.append, timeout=30)
    await sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=100))
    await sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
    await terminal.wait()
    assert b"40 100" in b"".join(shown)
    assert await sandbox.pty.kill(terminal.pid) is False


async def test_files_and_watches(sandbox):
    files = sandbox.files
    written = await files.write_files([{"path": "d/one", "data": "1"}, {"path": "d/two", "data": b"\x00\xff"}])
    assert [item.path for item in written] == ["/home/user/d/one", "/home/user/d/two"]
    assert await files.read("d/two", format="bytes") == bytearray(b"\x00\xff")
    assert b"".join([part async for part in await files.read("d/one", format="stream")]) == b"1"
    assert [entry.name for entry in await files.list("d")] == ["one", "two"]
    info = await files.get_info("d/one")
    assert (info.type, info.size, info.owner) == (FileType.FILE, 1, "user")
    assert await files.make_dir("new") is True and await files.make_dir("new") is False
    assert (await files.rename("d/one", "new/one")).path == "/home/user/new/one"
    assert await files.exists("new/one") and not await files.exists("d/one")
    await files.remove("new")
    for missing in (files.read("new/one"), files.list("new"), files.get_info("new"), files.rename("new", "x")):
        with pytest.raises(NotFoundException):
            await missing
    events = []
    watch = await files.watch_dir("d", on_event=events.append, recursive=True)
    await files.write("d/below/seen", "x")

    async def seen():
        return any(event.name.endswith("seen") for event in events)

    await until("an event", seen)
    await watch.stop()


async def test_git(sandbox):
    git = sandbox.git
    await git.init("repo", initial_branch="main")
    await git.configure_user("Ada", "ada@example.com")
    await sandbox.files.write("repo/file", "text")
    await git.add("repo")
    await git.commit("repo", "first")
    assert (await git.status("repo")).is_clean
    await git.create_branch("repo", "other")
    assert (await git.branches("repo")).current_branch == "other"


async def test_templates():
    name = f"async-{uuid.uuid4().hex}"
    recipe = AsyncTemplate().from_template("base").run_cmd("echo built > built")
    built = await AsyncTemplate.build(recipe, name, tags=["v1", "default"])
    assert await AsyncTemplate.exists(name) and not await AsyncTemplate.exists(f"{name}-not")
    sandbox = await AsyncSandbox.create(name, timeout=60)
    assert await sandbox.files.read("built") == "built\n"
    await sandbox.kill()
    assert (await AsyncTemplate.assign_tags(f"{name}:v1", "v2")).build_id == built.build_id
    await AsyncTemplate.remove_tags(name, "v1")
    assert {tag.tag for tag in await AsyncTemplate.get_tags(name)} == {"v2", "default"}
    info = await AsyncTemplate.build_in_background(AsyncTemplate().from_template("base"), name)

    async def ready():
        return (await AsyncTemplate.get_build_status(info)).status.value == "ready"

    await until("the build", ready)
    with pytest.raises(BuildException, match="exit status 7"):
        await AsyncTemplate.build(AsyncTemplate().from_template("base").run_cmd("exit 7"), name)
    assert '"RUN"' in Template.to_json(recipe)
    assert await AsyncSandbox.delete_snapshot(name) is True
