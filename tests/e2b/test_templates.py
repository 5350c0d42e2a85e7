"""Templates, built through the SDK from the platform's own base."""

import uuid

import pytest
from e2b import (
    BuildException,
    Sandbox,
    Template,
    TemplateException,
    default_build_logger,
    wait_for_file,
    wait_for_port,
)


@pytest.fixture
def name():
    """A name that no other test has; its template is gone afterwards."""
    return f"e2b_test-{uuid.uuid4().hex}"


@pytest.fixture
def context(tmp_path):
    """A folder of files for `copy`."""
    (tmp_path / "app" / "deep").mkdir(parents=True)
    (tmp_path / "app" / "main.py").write_text("print('main')\n")
    (tmp_path / "app" / ".hidden").write_text("hidden\n")
    (tmp_path / "app" / "deep" / "data.txt").write_text("data\n")
    (tmp_path / "app" / "link").symlink_to("main.py")
    (tmp_path / "one.txt").write_text("one\n")
    (tmp_path / "two.txt").write_text("two\n")
    (tmp_path / "skipped.log").write_text("skipped\n")
    return tmp_path


def test_steps_become_a_template_and_are_not_built_again(name, context, make):
    def recipe(last):
        return (
            Template(file_context_path=context, file_ignore_patterns=["*.log"])
            .from_template("base")
            .run_cmd("whoami > who; pwd > where")
            .set_envs({"COLOUR": "light blue", "SIZE": "1"})
            .run_cmd('echo "$COLOUR $SIZE" > env')
            .copy("app", "app")
            .copy("*.txt", "texts/")
            .copy("one.txt", "/opt/renamed.txt", user="root", mode=0o600)
            .make_dir("made", mode=0o700)
            .rename("texts/two.txt", "texts/three.txt")
            .make_symlink("texts/one.txt", "to-one")
            .remove("app/deep/data.txt")
            .set_user("worker")
            .set_workdir("/srv/work")
            .run_cmd("whoami > who; pwd > where")
            .run_cmd(f"echo {last} > last")
        )

    lines = []
    built = Template.build(recipe("first"), name, on_build_logs=lines.append)
    assert built.template_id and uuid.UUID(built.build_id)
    assert any("RUN whoami" in line.message for line in lines)
    sandbox = make(name)
    home = sandbox.commands.run("cd /home/user; cat who where env; ls texts; cat to-one; stat -c '%a %U' made", user="root")
    assert home.stdout == "user\n/home/user\nlight blue 1\none.txt\nthree.txt\none\n700 user\n"
    copied = sandbox.commands.run("cd /home/user/app; readlink link; cat .hidden; ls deep; stat -c %U main.py", user="root")
    assert copied.stdout == "main.py\nhidden\nuser\n"
    assert sandbox.commands.run("stat -c '%a %U' /opt/renamed.txt /opt", user="root").stdout == "600 root\n755 root\n"
    # What the last steps said is what sandboxes begin with.
    assert sandbox.commands.run("whoami; pwd; cat who where; echo $COLOUR").stdout == (
        "worker\n/srv/work\nworker\n/srv/work\nlight blue\n"
    )

    lines.clear()
    again = Template.build(recipe("second"), name, on_build_logs=lines.append)
    assert again.template_id == built.template_id and again.build_id != built.build_id
    assert any("as it was built before" in line.message for line in lines)
    assert make(name).commands.run("cat last").stdout == "second\n"
    assert sandbox.commands.run("cat last").stdout == "first\n"


def test_skip_cache_builds_anew_from_there_on(name, make):
    def build(recipe):
        Template.build(recipe, name)
        return make(name).commands.run("cat first second").stdout.split()

    def recipe(skip):
        template = Template().from_template("base").run_cmd("date +%N > first")
        return (template.skip_cache() if skip else template).run_cmd("date +%N > second")

    one, two, three = build(recipe(False)), build(recipe(False)), build(recipe(True))
    assert one == two
    assert three[0] == two[0] and three[1] != two[1]
    Template.build(recipe(False), name, skip_cache=True)
    assert make(name).commands.run("cat first").stdout.strip() != three[0]


def test_a_start_command_runs_when_a_sandbox_is_there(name, make):
    recipe = Template().from_template("base").set_start_cmd("python3 -m http.server 8123", wait_for_port(8123))
    Template.build(recipe, name, cpu_count=2, memory_mb=768)
    sandbox = make(name)
    assert "Directory listing" in sandbox.commands.run("curl -fsS http://127.0.0.1:8123/").stdout
    info = sandbox.get_info()
    assert (info.cpu_count, info.memory_mb) == (2, 768)
    assert info.name == name


def test_a_template_can_stand_on_another_one_and_its_ready_command_is_waited_for(name, make):
    first = Template().from_base_image().run_cmd("echo below > below").set_ready_cmd(wait_for_file("/etc/passwd"))
    Template.build(first, name)
    Template.build(Template().from_template(name).run_cmd("cat below > above"), f"{name}-2")
    assert make(f"{name}-2").commands.run("cat above").stdout == "below\n"


def test_a_dockerfile_is_taken(name, context, make):
    text = "FROM e2bdev/base\nENV A=1\nWORKDIR /srv\nCOPY one.txt .\nRUN whoami > who\nUSER user\nCMD sleep 1000\n"
    Template.build(Template(file_context_path=context).from_dockerfile(text), name)
    sandbox = make(name)
    assert sandbox.commands.run("whoami; pwd; cat who one.txt; echo $A").stdout == "user\n/srv\nroot\none\n1\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it.run_cmd("echo before >&2; exit 7"), "exit status 7"),
        (
            lambda it: it.run_cmd("whoami", user="root123"),
            "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
        ),
    ],
    ids=["run", "user"],
)
def test_a_build_that_fails_says_why_and_leaves_the_template_as_it_was(name, make, change, says):
    Template.build(Template().from_template("base").run_cmd("echo kept > kept"), name)
    lines = []
    with pytest.raises(BuildException) as failed:
        Template.build(change(Template().from_template("base")), name, on_build_logs=lines.append)
    assert says in str(failed.value)
    assert make(name).commands.run("cat kept").stdout == "kept\n"


def test_what_can_not_be_built_is_told(name):
    with pytest.raises(BuildException, match="not found"):
        Template.build(Template().from_template("no-such-template"), name)
    with pytest.raises(BuildException):
        Template.build(Template().from_template("base"), "Not A Name")
    with pytest.raises(BuildException):
        Template.build(Template().from_template("base"), name, cpu_count=1000)
    with pytest.raises(BuildException):
        Template.build(Template().from_template("base"), f"somebody-elses/{name}")


def test_a_build_in_the_background_is_asked_after(name):
    info = Template.build_in_background(Template().from_template("base").run_cmd(f"seq 1 250 # {name}"), name)
    seen, status = [], None
    while status is None or status.status.value in ("building", "waiting") or status.log_entries:
        status = Template.get_build_status(info, logs_offset=len(seen))
        assert len(status.log_entries) <= 100
        seen.extend(entry.message for entry in status.log_entries)
    assert status.status.value == "ready" and status.template_id == info.template_id
    assert [line for line in seen if line.isdigit()] == [str(number) for number in range(1, 251)]
    assert Template.get_build_status(info, logs_offset=100_000).log_entries == []


def test_names_and_tags(name, make):
    assert not Template.exists(name)
    Template.build(Template().from_template("base").run_cmd("echo 1 > version"), f"{name}:v1")
    assert Template.exists(name) and Template.alias_exists(f"{name}:v1") and not Template.exists(f"{name}:v2")
    second = Template.build(Template().from_template("base").run_cmd("echo 2 > version"), name, tags=["v2", "new"])
    tags = {tag.tag: tag.build_id for tag in Template.get_tags(name)}
    assert set(tags) == {"v1", "v2", "new"} and tags["v2"] == tags["new"] == second.build_id
    assert make(f"{name}:v1").commands.run("cat version").stdout == "1\n"
    assert make(f"{name}:v2").commands.run("cat version").stdout == "2\n"

    given = Template.assign_tags(f"{name}:v1", ["stable", "default"])
    assert set(given.tags) == {"stable", "default"} and given.build_id == tags["v1"]
    assert make(f"{name}:stable").commands.run("cat version").stdout == "1\n"
    assert make(name).commands.run("cat version").stdout == "1\n"
    Template.remove_tags(name, ["stable", "new"])
    assert {tag.tag for tag in Template.get_tags(name)} == {"v1", "v2", "default"}
    with pytest.raises(TemplateException):
        Template.assign_tags(f"{name}:v9", "x")
    for wrong in [":x", f"{name}:"]:
        with pytest.raises(TemplateException):
            Template.assign_tags(wrong, "x")
    with pytest.raises(TemplateException):
        Template.remove_tags(name, "default")
    with pytest.raises(TemplateException):
        Template.get_tags(f"{name}-not")
    # SDKs delete templates as they delete snapshots.
    assert Sandbox.delete_snapshot(name) is True
    assert Sandbox.delete_snapshot(name) is False
    assert not Template.exists(name)
    default_build_logger()
