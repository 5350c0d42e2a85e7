"""What the other files leave out, so that each public method of the SDK is called with success and in vain.

`calls.py` knows what is left out. Here are the sweeping tests: everything on a sandbox that is gone, everything with a
wrong key; and the small methods that no story has a use for.
"""

import urllib.request
import uuid

import e2b
import pytest
from e2b import (
    ALL_TRAFFIC,
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    Secret,
    Template,
    Volume,
    wait_for_timeout,
)
from e2b.exceptions import SandboxNotFoundException

SIZE = PtySize(rows=24, cols=80)
WRONG = {"api_key": "e2b_" + "0" * 32}
OCTETS = {"Content-Type": "application/octet-stream"}
# Since the older generation.
STREAMS = hasattr(e2b, "AsyncCommandInputHandle")
# "Timeout" is what the older SDK makes of a stream that ends without a word.
WORDS = ("not found", "killed", "end of life", "not running", "doesn't exist", "sandbox timeout")


def on_what_is_gone(sandbox, handle, terminal, watch):
    """A call of every method that asks a sandbox for something."""
    commands, files, git, pty = sandbox.commands, sandbox.files, sandbox.git, sandbox.pty
    yield from [
        lambda: commands.run("true"),
        lambda: commands.list(),
        lambda: commands.connect(handle.pid),
        lambda: commands.send_stdin(handle.pid, "x"),
        lambda: commands.close_stdin(handle.pid),
        lambda: handle.send_stdin("x"),
        lambda: handle.close_stdin(),
        lambda: handle.wait(),
        lambda: handle.kill(),
        lambda: pty.create(SIZE),
        lambda: pty.connect(terminal.pid),
        lambda: pty.resize(terminal.pid, SIZE),
        lambda: pty.send_stdin(terminal.pid, b"x"),
        lambda: files.exists("x"),
        lambda: files.get_info("x"),
        lambda: files.list("."),
        lambda: files.make_dir("x"),
        lambda: files.read("x"),
        lambda: files.remove("x"),
        lambda: files.rename("x", "y"),
        lambda: files.watch_dir("."),
        lambda: files.write("x", "x"),
        lambda: files.write_files([{"path": "x", "data": "x"}]),
        lambda: watch.get_new_events(),
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
    if STREAMS:
        yield from [lambda: commands.stream_input(handle.pid, ["x"]), lambda: pty.stream_input(terminal.pid, [b"x"])]


def test_every_method_says_that_the_sandbox_is_gone(make):
    sandbox = make()
    handle = sandbox.commands.run("sleep 1000", background=True, stdin=True)
    terminal = sandbox.pty.create(SIZE)
    watch = sandbox.files.watch_dir(".")
    assert sandbox.kill() is True
    wrong = []
    for number, call in enumerate(on_what_is_gone(sandbox, handle, terminal, watch)):
        try:
            wrong.append((number, call()))
        except (SandboxException, NotFoundException, SandboxNotFoundException) as told:
            text = str(told).lower()
            if not any(word in text for word in WORDS):
                wrong.append((number, told))
    assert not wrong
    assert sandbox.kill() is False and not sandbox.is_running()


def test_every_method_that_takes_a_key_asks_for_a_right_one(make):
    sandbox, recipe = make(), Template().from_template("base")
    name, build = "no-such", e2b.BuildInfo(alias="x", name="x", template_id="x", build_id="x", tags=[])
    with_a_wrong_key = [
        lambda: Sandbox.create(**WRONG),
        lambda: Sandbox.connect(sandbox.sandbox_id, **WRONG),
        lambda: Sandbox.kill(sandbox.sandbox_id, **WRONG),
        lambda: Sandbox.get_info(sandbox.sandbox_id, **WRONG),
        lambda: Sandbox.get_metrics(sandbox.sandbox_id, **WRONG),
        lambda: Sandbox.set_timeout(sandbox.sandbox_id, 10, **WRONG),
        lambda: Sandbox.pause(sandbox.sandbox_id, **WRONG),
        lambda: Sandbox.fork(sandbox.sandbox_id, **WRONG),
        lambda: Sandbox.create_snapshot(sandbox.sandbox_id, **WRONG),
        lambda: Sandbox.delete_snapshot(name, **WRONG),
        lambda: Sandbox.update_network(sandbox.sandbox_id, {}, **WRONG),
        lambda: Sandbox.list(**WRONG).next_items(),
        lambda: Sandbox.list_snapshots(**WRONG).next_items(),
        lambda: Secret.list(**WRONG).next_items(),
        lambda: Secret.create(name, "x", **WRONG),
        lambda: Secret.update(name, "x", **WRONG),
        lambda: Secret.get_info(name, **WRONG),
        lambda: Secret.exists(name, **WRONG),
        lambda: Secret.destroy(name, **WRONG),
        lambda: Volume.create(name, **WRONG),
        lambda: Volume.connect(name, **WRONG),
        lambda: Volume.get_info(name, **WRONG),
        lambda: Volume.list(**WRONG),
        lambda: Volume.destroy(name, **WRONG),
        lambda: Template.build(recipe, name, **WRONG),
        lambda: Template.build_in_background(recipe, name, **WRONG),
        lambda: Template.get_build_status(build, **WRONG),
        lambda: Template.exists(name, **WRONG),
        lambda: Template.alias_exists(name, **WRONG),
        lambda: Template.assign_tags(f"{name}:a", "b", **WRONG),
        lambda: Template.remove_tags(name, "b", **WRONG),
        lambda: Template.get_tags(name, **WRONG),
    ]
    wrong = []
    for number, call in enumerate(with_a_wrong_key):
        try:
            wrong.append((number, call()))
        except AuthenticationException:
            pass
    assert not wrong


def test_what_is_called_of_the_class_is_what_is_called_of_the_sandbox(make):
    sandbox = make(metadata={"a": "b"})
    of = sandbox.sandbox_id
    assert Sandbox.get_info(of).metadata == {"a": "b"} and Sandbox.get_metrics(of) is not None
    Sandbox.set_timeout(of, 200)
    Sandbox.update_network(of, {"deny_out": [ALL_TRAFFIC]})
    sandbox.update_network({"allow_out": ["example.com"], "deny_out": [ALL_TRAFFIC]})
    assert sandbox.get_info().network["allow_out"] == ["example.com"]
    rules = {"api.example.com": [{"transform": {"headers": {"X-Token": "t"}}}]}
    sandbox.update_network({"allow_out": ["api.example.com"], "deny_out": [ALL_TRAFFIC], "rules": rules})
    assert sandbox.get_info().network["rules"] == rules
    where = sandbox.commands.run("getent hosts api.example.com").stdout
    assert where.startswith("198.18."), "it leads to the host's proxy"
    with pytest.raises(SandboxException, match="must be a name"):
        sandbox.update_network({"rules": {"10.0.0.0/8": [{"transform": {"headers": {"a": "b"}}}]}})
    with pytest.raises(SandboxException, match="not a header that can be added"):
        sandbox.update_network({"rules": {"example.com": [{"transform": {"headers": {"Host": "b"}}}]}})
    assert Sandbox.pause(of) is True and Sandbox.pause(of) is False and sandbox.pause() is False
    assert sandbox.connect(timeout=100).sandbox_id == of
    assert sandbox.beta_pause() is True
    Sandbox.connect(of, timeout=100)
    snapshot = Sandbox.create_snapshot(of)
    assert [item.snapshot_id for item in sandbox.list_snapshots().next_items()] == [snapshot.snapshot_id]
    assert sandbox.delete_snapshot(snapshot.snapshot_id) is True
    (fork,) = Sandbox.fork(of, timeout=60)
    assert fork.is_running() and Sandbox.kill(fork.sandbox_id) is True and Sandbox.kill(fork.sandbox_id) is False
    with pytest.raises(NotFoundException):
        sandbox.get_mcp_token()
    sandbox.files.write("/etc/mcp-gateway/.token", "of the gateway", user="root")
    assert sandbox.get_mcp_token() == "of the gateway"
    upload = urllib.request.Request(sandbox.upload_url("up", user="user"), data=b"up", headers=OCTETS)
    with urllib.request.urlopen(upload) as answer:
        assert answer.status == 200 and sandbox.files.read("up") == "up"
    assert sandbox.get_host(80).startswith(f"80-{of}.") and sandbox.get_mcp_url().endswith("/mcp")


def test_handles_of_programs_and_terminals(sandbox):
    commands, pty = sandbox.commands, sandbox.pty
    handle = commands.run("cat", background=True, stdin=True)
    handle.send_stdin("one\n")
    commands.send_stdin(handle.pid, b"two\n")
    if STREAMS:
        commands.stream_input(handle.pid, iter(["three\n", b"four\n"]))
    handle.close_stdin()
    done = handle.wait()
    assert done.stdout == "one\ntwo\n" + ("three\nfour\n" if STREAMS else "") and done.exit_code == 0
    for call in (lambda: commands.send_stdin(handle.pid, "x"), lambda: commands.close_stdin(handle.pid)):
        with pytest.raises((NotFoundException, SandboxException)):
            call()
    other = commands.run("cat", background=True, stdin=True)
    other.close_stdin()
    other.wait()
    third = commands.run("sleep 1000", background=True)
    third.disconnect()
    assert third.pid in [item.pid for item in commands.list()], "who goes away ends nothing"
    assert commands.connect(third.pid).kill() is True and commands.kill(third.pid) is False
    terminal = pty.create(SIZE)
    again = pty.connect(terminal.pid)
    # Bash reads the size and sets it again, before it shows its prompt: what comes in between is lost.
    for _, _, data in terminal:
        if data and b"$ " in data:
            break
    pty.resize(terminal.pid, PtySize(rows=40, cols=100))
    shown = []
    pty.send_stdin(terminal.pid, b"stty size\n")
    if STREAMS:
        pty.stream_input(terminal.pid, iter([b"echo $((6*", b"7))\n"]))
    pty.send_stdin(terminal.pid, b"exit\n")
    again.wait(on_pty=shown.append)
    assert b"40 100" in b"".join(shown) and (b"42" in b"".join(shown) or not STREAMS)
    assert pty.kill(terminal.pid) is False
    last = pty.create(SIZE)
    assert pty.kill(last.pid) is True
    for call in (lambda: pty.connect(999_999), lambda: pty.resize(999_999, SIZE), lambda: pty.send_stdin(999_999, b"x")):
        with pytest.raises(NotFoundException):
            call()


def test_files_in_every_form(sandbox):
    files = sandbox.files
    files.write_files([{"path": "d/a", "data": "1"}, {"path": "d/b", "data": b"2"}])
    reader = files.read("d/a", format="stream")
    reader.close()
    assert b"".join(files.read("d/b", format="stream")) == b"2"
    assert files.read("d/a", gzip=True) == "1"
    files.write("d/z", "zipped", gzip=True)
    assert files.read("d/z") == "zipped"
    files.write("d/m", "noted", metadata={"Who": "Ada"})
    assert files.get_info("d/m").metadata == {"who": "Ada"}
    for path in ("d", "~other/x"):
        with pytest.raises((SandboxException, InvalidArgumentException)):
            files.write(path, "x")
    with pytest.raises(NotFoundException):
        files.watch_dir("none")
    with pytest.raises((SandboxException, InvalidArgumentException)):
        files.make_dir("d/a")


def test_git_from_the_first_commit_to_a_pull(sandbox):
    git, files = sandbox.git, sandbox.files
    git.configure_user("Ada", "ada@example.com")
    git.set_config("init.defaultBranch", "main")
    assert git.get_config("init.defaultBranch") == "main" and git.get_config("none.none") is None
    git.init("origin.git", bare=True, initial_branch="main")
    git.clone("/home/user/origin.git", path="work")
    files.write("work/file", "one")
    git.add("work")
    git.commit("work", "first")
    git.push("work", remote="origin", branch="main")
    git.clone("/home/user/origin.git", path="other", branch="main")
    git.create_branch("work", "side")
    git.checkout_branch("work", "main")
    assert git.branches("work").current_branch == "main"
    git.delete_branch("work", "side")
    files.write("work/file", "two")
    assert not git.status("work").is_clean
    git.restore("work", ["file"])
    assert files.read("work/file") == "one" and git.status("work").is_clean
    files.write("work/file", "three")
    git.add("work", files=["file"])
    git.reset("work", mode="hard")
    assert files.read("work/file") == "one"
    files.write("work/file", "four")
    git.add("work")
    git.commit("work", "second")
    git.push("work", remote="origin", branch="main")
    git.pull("other", remote="origin", branch="main")
    assert files.read("other/file") == "four"
    git.remote_add("work", "mirror", "https://example.test/m.git")
    assert git.remote_get("work", "mirror") == "https://example.test/m.git" and git.remote_get("work", "none") is None
    git.dangerously_authenticate("ada", "secret", host="example.test")
    with pytest.raises((CommandExitException, SandboxException)):
        git.clone("/home/user/none.git")


def test_recipes_in_every_form(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN true\n")
    of = lambda: Template(file_context_path=tmp_path)  # noqa: E731
    named = {
        "from_alpine_image": "alpine:",
        "from_arch_image": "arch",
        "from_bun_image": "bun:",
        "from_debian_image": "debian:",
        "from_fedora_image": "fedora:",
        "from_node_image": "node:",
        "from_python_image": "python:",
        "from_ubuntu_image": "ubuntu:",
    }
    for method, image in named.items():
        assert image in Template.to_dockerfile(getattr(of(), method)()), method
    keys = {"access_key_id": "a", "secret_access_key": "b", "region": "eu-west-1"}
    assert '"aws"' in Template.to_json(of().from_aws_registry("x.dkr.ecr.eu-west-1.amazonaws.com/y", **keys))
    assert '"gcp"' in Template.to_json(of().from_gcp_registry("eu.gcr.io/x/y", {"type": "service_account"}))
    assert "FROM debian" in Template.to_dockerfile(of().from_dockerfile(str(tmp_path / "Dockerfile")))
    recipe = (
        of()
        .skip_cache()
        .from_image("debian:12")
        .skip_cache()
        .apt_install("jq")
        .bun_install("left-pad")
        .npm_install("left-pad", g=True)
        .pip_install("requests")
        .git_clone("https://example.test/r.git", "/srv/r", branch="main", depth=1)
        .copy_items([{"src": "Dockerfile", "dest": "/srv/"}])
    )
    text = Template.to_dockerfile(recipe)
    for step in ("apt-get install", "bun", "npm install", "pip install", "git clone", "/srv/"):
        assert step in text, (step, text)
    assert "mcp-gateway" in Template.to_json(of().from_template("mcp-gateway").add_mcp_server("time"))
    dev = of().from_template("devcontainer")
    assert "devcontainer" in Template.to_json(dev.beta_dev_container_prebuild("/w").beta_set_dev_container_start("/w"))
    assert wait_for_timeout(1000).get_cmd() == "sleep 1"


def test_a_client_of_its_own_key(make):
    if not hasattr(e2b, "E2B"):
        pytest.skip("the older generation has none")
    client = e2b.E2B(**WRONG)
    with pytest.raises(AuthenticationException):
        client.Sandbox.create()
    assert make().is_running()


def test_secrets(make):
    name, value = f"key-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    made = Secret.create(name, value, metadata={"for": "tests"})
    assert (made.name, made.version, made.metadata) == (name, 1, {"for": "tests"})
    assert Secret.get_info(made.secret_id) == Secret.get_info(name) == made
    with pytest.raises(e2b.SecretException):
        Secret.create(name, value)
    first = make(envs={"KEY": Secret.fill(name), "OTHER": "plain"})
    assert first.commands.run("echo $KEY $OTHER").stdout == f"{value} plain\n"
    second = Secret.update(name, "another")
    assert (second.version, second.metadata, second.secret_id) == (2, {"for": "tests"}, made.secret_id)
    assert make(envs={"KEY": Secret.fill(name)}).commands.run("echo $KEY").stdout == "another\n"
    assert first.commands.run("echo $KEY").stdout == f"{value}\n", "who has a value keeps it"
    listed, paginator = [], Secret.list(limit=1)
    while paginator.has_next:
        listed += paginator.next_items()
    assert [item.name for item in listed if item.name == name] == [name]
    assert Secret.exists(name) and Secret.destroy(name) is True and Secret.destroy(name) is False
    assert not Secret.exists(name)
    for call in (lambda: Secret.get_info(name), lambda: Secret.update(name, "x")):
        with pytest.raises(e2b.SecretNotFoundException):
            call()
    with pytest.raises(SandboxException, match=name):
        make(envs={"KEY": Secret.fill(name)})
    with pytest.raises(SandboxException, match="whole value"):
        make(envs={"KEY": f"Bearer {Secret.fill(name)}"})
    with pytest.raises(e2b.SecretException, match="letters"):
        Secret.create("not/a/name", "x")
