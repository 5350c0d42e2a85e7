"""The same as `test_every_method`, through the SDK's asynchronous half."""

import asyncio
import uuid

import e2b
import pytest
from e2b import (
    ALL_TRAFFIC,
    AsyncSandbox,
    AsyncSecret,
    AsyncTemplate,
    AsyncVolume,
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    SandboxException,
)

SIZE = PtySize(rows=24, cols=80)
WRONG = {"api_key": "e2b_" + "0" * 32}
STREAMS = hasattr(e2b, "AsyncCommandInputHandle")
# "Timeout" is what the older SDK makes of a stream that ends without a word.
WORDS = ("not found", "killed", "end of life", "not running", "doesn't exist", "sandbox timeout")


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


async def nothing(_):
    pass


async def test_every_method_says_that_the_sandbox_is_gone(make):
    sandbox = await make()
    commands, files, git, pty = sandbox.commands, sandbox.files, sandbox.git, sandbox.pty
    handle = await commands.run("sleep 1000", background=True, stdin=True)
    terminal = await pty.create(SIZE, on_data=nothing)
    if STREAMS:
        typed, shown = commands.stream_input(handle.pid), pty.stream_input(terminal.pid)
    assert await sandbox.kill() is True
    calls = [
        lambda: commands.run("true"),
        lambda: commands.list(),
        lambda: commands.connect(handle.pid),
        lambda: commands.send_stdin(handle.pid, "x"),
        lambda: commands.close_stdin(handle.pid),
        lambda: handle.send_stdin("x"),
        lambda: handle.close_stdin(),
        lambda: handle.wait(),
        lambda: handle.kill(),
        lambda: pty.create(SIZE, on_data=nothing),
        lambda: pty.connect(terminal.pid, on_data=nothing),
        lambda: pty.resize(terminal.pid, SIZE),
        lambda: pty.send_stdin(terminal.pid, b"x"),
        lambda: files.exists("x"),
        lambda: files.get_info("x"),
        lambda: files.list("."),
        lambda: files.make_dir("x"),
        lambda: files.read("x"),
        lambda: files.remove("x"),
        lambda: files.rename("x", "y"),
        lambda: files.watch_dir(".", on_event=nothing),
        lambda: files.write("x", "x"),
        lambda: files.write_files([{"path": "x", "data": "x"}]),
        lambda: git.add("r"),
        lambda: git.branches("r"),
        lambda: git.checkout_branch("r", "b"),
        lambda: git.clone("https://example.test/r"),
        lambda: git.commit("r", "m"),
        lambda: git.configure_user("Ada", "ada@example.com"),
        lambda: git.create_branch("r", "b"),
        lambda: git.dangerously_authenticate("u", "p"),
        lambda: git.delete_branch("r", "b"),
        lambda: git.get_config("k"),
        lambda: git.init("r"),
        lambda: git.pull("r", remote="origin", branch="main"),
        lambda: git.push("r", remote="origin", branch="main"),
        lambda: git.remote_add("r", "n", "https://example.test/r"),
        lambda: git.remote_get("r", "n"),
        lambda: git.reset("r"),
        lambda: git.restore("r", ["x"]),
        lambda: git.set_config("k", "v"),
        lambda: git.status("r"),
        lambda: sandbox.connect(),
        lambda: sandbox.create_snapshot(),
        lambda: sandbox.fork(),
        lambda: sandbox.get_info(),
        lambda: sandbox.get_metrics(),
        lambda: sandbox.pause(),
        lambda: sandbox.beta_pause(),
        lambda: sandbox.set_timeout(10),
        lambda: sandbox.update_network({}),
    ]
    wrong = []
    for number, call in enumerate(calls):
        try:
            wrong.append((number, await call()))
        except (SandboxException, NotFoundException) as told:
            text = str(told).lower()
            if not any(word in text for word in WORDS):
                wrong.append((number, told))
    assert not wrong
    if STREAMS:
        for opened in (typed, shown):
            with pytest.raises(Exception):
                for _ in range(100):
                    await opened.send("x")
                    await asyncio.sleep(0.1)


async def test_every_method_that_takes_a_key_asks_for_a_right_one(make):
    sandbox, recipe = await make(), AsyncTemplate().from_template("base")
    of, name = sandbox.sandbox_id, "no-such"
    build = e2b.BuildInfo(alias="x", name="x", template_id="x", build_id="x", tags=[])
    for call in [
        lambda: AsyncSandbox.create(**WRONG),
        lambda: AsyncSandbox.connect(of, **WRONG),
        lambda: AsyncSandbox.kill(of, **WRONG),
        lambda: AsyncSandbox.get_info(of, **WRONG),
        lambda: AsyncSandbox.get_metrics(of, **WRONG),
        lambda: AsyncSandbox.set_timeout(of, 10, **WRONG),
        lambda: AsyncSandbox.pause(of, **WRONG),
        lambda: AsyncSandbox.fork(of, **WRONG),
        lambda: AsyncSandbox.create_snapshot(of, **WRONG),
        lambda: AsyncSandbox.delete_snapshot(name, **WRONG),
        lambda: AsyncSandbox.update_network(of, {}, **WRONG),
        lambda: AsyncSandbox.list(**WRONG).next_items(),
        lambda: AsyncSandbox.list_snapshots(**WRONG).next_items(),
        lambda: AsyncSecret.list(**WRONG).next_items(),
        lambda: AsyncSecret.create(name, "x", **WRONG),
        lambda: AsyncSecret.update(name, "x", **WRONG),
        lambda: AsyncSecret.get_info(name, **WRONG),
        lambda: AsyncSecret.exists(name, **WRONG),
        lambda: AsyncSecret.destroy(name, **WRONG),
        lambda: AsyncVolume.create(name, **WRONG),
        lambda: AsyncVolume.connect(name, **WRONG),
        lambda: AsyncVolume.get_info(name, **WRONG),
        lambda: AsyncVolume.list(**WRONG),
        lambda: AsyncVolume.destroy(name, **WRONG),
        lambda: AsyncTemplate.build(recipe, name, **WRONG),
        lambda: AsyncTemplate.build_in_background(recipe, name, **WRONG),
        lambda: AsyncTemplate.get_build_status(build, **WRONG),
        lambda: AsyncTemplate.exists(name, **WRONG),
        lambda: AsyncTemplate.alias_exists(name, **WRONG),
        lambda: AsyncTemplate.assign_tags(f"{name}:a", "b", **WRONG),
        lambda: AsyncTemplate.remove_tags(name, "b", **WRONG),
        lambda: AsyncTemplate.get_tags(name, **WRONG),
    ]:
        with pytest.raises(AuthenticationException):
            await call()
    assert not await AsyncTemplate.alias_exists(name)


async def test_what_is_called_of_the_class_is_what_is_called_of_the_sandbox(make):
    sandbox = await make()
    of = sandbox.sandbox_id
    assert (await AsyncSandbox.get_info(of)).sandbox_id == of and await AsyncSandbox.get_metrics(of) is not None
    await AsyncSandbox.set_timeout(of, 200)
    await AsyncSandbox.update_network(of, {"deny_out": [ALL_TRAFFIC]})
    assert await AsyncSandbox.pause(of) is True and await sandbox.pause() is False
    assert (await sandbox.connect(timeout=100)).sandbox_id == of
    assert await sandbox.beta_pause() is True
    await AsyncSandbox.connect(of, timeout=100)
    snapshot = await AsyncSandbox.create_snapshot(of)
    assert [item.snapshot_id for item in await sandbox.list_snapshots().next_items()] == [snapshot.snapshot_id]
    assert await sandbox.delete_snapshot(snapshot.snapshot_id) is True
    (fork,) = await AsyncSandbox.fork(of, timeout=60)
    assert await fork.is_running()
    assert await AsyncSandbox.kill(fork.sandbox_id) is True and await AsyncSandbox.kill(fork.sandbox_id) is False
    with pytest.raises(NotFoundException):
        await sandbox.get_mcp_token()
    await sandbox.files.write("/etc/mcp-gateway/.token", "of the gateway", user="root")
    assert await sandbox.get_mcp_token() == "of the gateway"


async def test_handles_of_programs_and_terminals(make):
    sandbox = await make()
    commands, pty = sandbox.commands, sandbox.pty
    handle = await commands.run("cat", background=True, stdin=True)
    await handle.send_stdin("one\n")
    if STREAMS:
        typed = commands.stream_input(handle.pid)
        await typed.send("two\n")
        await typed.send(b"three\n")
        await typed.close()
    await commands.close_stdin(handle.pid)
    assert (await handle.wait()).stdout == ("one\ntwo\nthree\n" if STREAMS else "one\n")
    for call in (lambda: commands.send_stdin(handle.pid, "x"), lambda: commands.close_stdin(handle.pid)):
        with pytest.raises((NotFoundException, SandboxException)):
            await call()
    other = await commands.run("cat", background=True, stdin=True)
    await other.close_stdin()
    await other.wait()
    third = await commands.run("sleep 1000", background=True)
    await third.disconnect()
    assert third.pid in [item.pid for item in await commands.list()]
    assert await (await commands.connect(third.pid)).kill() is True and await commands.kill(third.pid) is False
    shown = []
    terminal = await pty.create(SIZE, on_data=nothing)
    again = await pty.connect(terminal.pid, on_data=shown.append)
    await pty.send_stdin(terminal.pid, b"stty size\n")
    if STREAMS:
        typed = pty.stream_input(terminal.pid)
        await typed.send(b"echo $((6*")
        await typed.send(b"7))\n")
        await typed.close()
    await pty.send_stdin(terminal.pid, b"exit\n")
    await again.wait()
    assert b"24 80" in b"".join(shown) and (b"42" in b"".join(shown) or not STREAMS)
    last = await pty.create(SIZE, on_data=nothing)
    assert await pty.kill(last.pid) is True
    for call in (
        lambda: pty.connect(999_999, on_data=nothing),
        lambda: pty.resize(999_999, SIZE),
        lambda: pty.send_stdin(999_999, b"x"),
    ):
        with pytest.raises(NotFoundException):
            await call()


async def test_files_and_git(make):
    sandbox = await make()
    files, git = sandbox.files, sandbox.git
    await files.write("d/a", "1")
    reader = await files.read("d/a", format="stream")
    await reader.aclose()
    for path in ("d", "~other/x"):
        with pytest.raises((SandboxException, InvalidArgumentException)):
            await files.write(path, "x")
    with pytest.raises((SandboxException, InvalidArgumentException)):
        await files.make_dir("d/a")
    await git.configure_user("Ada", "ada@example.com")
    await git.set_config("init.defaultBranch", "main")
    assert await git.get_config("init.defaultBranch") == "main" and await git.get_config("none.none") is None
    await git.init("origin.git", bare=True, initial_branch="main")
    await git.clone("/home/user/origin.git", path="work")
    await files.write("work/file", "one")
    await git.add("work")
    await git.commit("work", "first")
    await git.push("work", remote="origin", branch="main")
    await git.clone("/home/user/origin.git", path="other")
    await git.create_branch("work", "side")
    await git.checkout_branch("work", "main")
    await git.delete_branch("work", "side")
    await files.write("work/file", "two")
    await git.restore("work", ["file"])
    assert await files.read("work/file") == "one"
    await files.write("work/file", "three")
    await git.reset("work", mode="hard")
    await files.write("work/file", "four")
    await git.add("work")
    await git.commit("work", "second")
    await git.push("work", remote="origin", branch="main")
    await git.pull("other", remote="origin", branch="main")
    assert await files.read("other/file") == "four"
    await git.remote_add("work", "mirror", "https://example.test/m.git")
    assert await git.remote_get("work", "mirror") == "https://example.test/m.git"
    await git.dangerously_authenticate("ada", "secret", host="example.test")
    with pytest.raises((CommandExitException, SandboxException)):
        await git.clone("/home/user/none.git")


async def test_secrets(make):
    name, value = f"key-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    made = await AsyncSecret.create(name, value, metadata={"for": "tests"})
    assert await AsyncSecret.get_info(name) == made and await AsyncSecret.exists(name)
    sandbox = await make(envs={"KEY": AsyncSecret.fill(name)})
    assert (await sandbox.commands.run("echo $KEY")).stdout == f"{value}\n"
    assert (await AsyncSecret.update(made.secret_id, "another", metadata={})).metadata == {}
    assert name in [item.name for item in await AsyncSecret.list().next_items()]
    assert await AsyncSecret.destroy(name) is True and await AsyncSecret.destroy(name) is False
    for call in (lambda: AsyncSecret.get_info(name), lambda: AsyncSecret.update(name, "x")):
        with pytest.raises(e2b.SecretNotFoundException):
            await call()
