"""What runs and lies in a sandbox: commands, terminals, files, watches."""

import threading
import urllib.request

import pytest
from e2b import (
    CommandExitException,
    FilesystemEventType,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    TimeoutException,
)


def test_a_command_answers_with_its_output_and_its_code(sandbox):
    done = sandbox.commands.run("echo out; echo err >&2")
    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 0)
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("echo half; exit 3")
    assert (failed.value.exit_code, failed.value.stdout) == (3, "half\n")
    assert sandbox.commands.run("whoami; pwd").stdout == "user\n/home/user\n"
    assert sandbox.commands.run("whoami", user="root").stdout == "root\n"
    assert sandbox.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n"
    with pytest.raises(InvalidArgumentException):
        sandbox.commands.run("true", cwd="/no/such/place")


def test_a_command_in_the_background_takes_input_and_can_be_killed(sandbox):
    seen = []
    command = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(command.pid, "hello\n")
    again = sandbox.commands.connect(command.pid)
    sandbox.commands.send_stdin(command.pid, "again\n")
    for stdout, _, _ in again:
        seen.append(stdout or "")
        if "again" in "".join(seen):
            break
    assert sandbox.commands.kill(command.pid) is True
    while command.pid in [item.pid for item in sandbox.commands.list()]:
        pass
    assert sandbox.commands.kill(command.pid) is False


def test_a_command_that_takes_too_long_is_ended(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 60", timeout=1)


def test_a_terminal_shows_what_is_typed(sandbox):
    shown = []
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=30)
    sandbox.pty.send_stdin(terminal.pid, b"echo $((6*7)); exit\n")
    terminal.wait(on_pty=lambda data: shown.append(data))
    assert b"42" in b"".join(shown)


def test_files_come_back_as_they_were(sandbox):
    data = bytes(range(256)) * 4096
    written = sandbox.files.write("deep/in/folders/data.bin", data)
    assert written.path == "/home/user/deep/in/folders/data.bin"
    assert sandbox.files.read("deep/in/folders/data.bin", format="bytes") == bytearray(data)
    assert sandbox.files.exists("deep/in") and not sandbox.files.exists("deep/out")
    info = sandbox.files.get_info("deep/in/folders/data.bin")
    assert (info.type, info.size, info.owner) == (FileType.FILE, len(data), "user")
    names = [entry.name for entry in sandbox.files.list("deep", depth=3)]
    assert names == ["in", "folders", "data.bin"]
    assert sandbox.files.make_dir("new") is True and sandbox.files.make_dir("new") is False
    assert sandbox.files.rename("deep/in/folders/data.bin", "new/data.bin").path == "/home/user/new/data.bin"
    sandbox.files.remove("new")
    with pytest.raises(NotFoundException):
        sandbox.files.read("new/data.bin")
    with pytest.raises(NotFoundException):
        sandbox.files.list("new")


def test_what_programs_note_at_a_file_is_seen_as_its_metadata(sandbox):
    sandbox.files.write("noted", "text")
    sandbox.commands.run("setfattr -n user.e2b.author -v Ada noted && setfattr -n user.other -v hidden noted")
    assert sandbox.files.get_info("noted").metadata == {"author": "Ada"}


def test_an_upload_is_seen_as_three_events(sandbox):
    sandbox.files.make_dir("watched")
    watch = sandbox.files.watch_dir("watched")
    sandbox.files.write("watched/new.txt", "content")
    kinds = [event.type for event in watch.get_new_events()]
    assert kinds == [FilesystemEventType.CREATE, FilesystemEventType.CHMOD, FilesystemEventType.WRITE]
    watch.stop()


def test_signed_addresses_open_one_file(sandbox):
    sandbox.files.write("signed.txt", "by signature")
    with urllib.request.urlopen(sandbox.download_url("signed.txt", user="user", use_signature_expiration=60)) as answer:
        assert answer.read() == b"by signature"


def test_many_at_once_keep_apart(make):
    sandboxes, errors = [make() for _ in range(5)], []

    def work(number, sandbox):
        try:
            sandbox.files.write("mine", str(number))
            assert sandbox.commands.run("cat mine").stdout == str(number)
        except Exception as error:  # told to the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(sandboxes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_sandbox_that_is_gone_is_told_as_such(make):
    sandbox = make()
    Sandbox.kill(sandbox.sandbox_id)
    with pytest.raises(Exception) as told:
        sandbox.commands.run("true")
    assert "not found" in str(told.value).lower() or "timeout" in type(told.value).__name__.lower()
