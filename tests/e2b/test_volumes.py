"""Volumes: files that outlive the sandboxes which mount them."""

import io
import uuid

import pytest
from e2b import (
    AsyncSandbox,
    AsyncVolume,
    AuthenticationException,
    Sandbox,
    SandboxException,
    Volume,
    VolumeException,
    VolumeFileType,
    VolumeNotFoundException,
    VolumePathNotFoundException,
)


@pytest.fixture
def volume():
    volume = Volume.create(f"tests-{uuid.uuid4().hex[:8]}")
    yield volume
    Volume.destroy(volume.volume_id)


def test_what_one_sandbox_writes_the_next_one_reads(volume, make):
    assert volume.volume_id in [it.volume_id for it in Volume.list()]
    assert Volume.get_info(volume.volume_id).name == volume.name
    assert Volume.connect(volume.volume_id).name == volume.name
    first = make(volume_mounts={"/mnt/data": volume})
    first.files.write("/mnt/data/kept.txt", "kept")
    second = make(volume_mounts={"/srv/same": volume.name})
    assert second.files.read("/srv/same/kept.txt") == "kept"
    mounts = second.get_info().volume_mounts
    assert [(it["name"], it["path"]) for it in mounts] == [(volume.name, "/srv/same")]
    with pytest.raises(VolumeException):
        Volume.destroy(volume.volume_id)
    first.kill()
    second.kill()
    third = make(volume_mounts={"/mnt/data": volume})
    assert third.commands.run("cat /mnt/data/kept.txt").stdout == "kept"
    third.kill()


async def test_the_same_without_waiting(volume):
    sandbox = await AsyncSandbox.create(timeout=60, volume_mounts={"/mnt/data": volume.name})
    await sandbox.files.write("/mnt/data/x", "x")
    assert (await sandbox.commands.run("cat /mnt/data/x")).stdout == "x"
    await sandbox.kill()


def test_what_can_not_be_had_is_said():
    assert Volume.destroy("vol-" + "a" * 20) is False
    with pytest.raises(SandboxException, match="no volume"):
        Sandbox.create(volume_mounts={"/mnt/data": "no-such-volume"})
    with pytest.raises(VolumeException, match="letters"):
        Volume.create("not/a/name")


def test_files_without_a_sandbox_and_beside_one(volume, make):
    assert volume.list("/") == [] and not volume.exists("a")
    written = volume.write_file("a/b/file.txt", "text", force=True)
    assert (written.path, written.name, written.size, written.mode) == ("/a/b/file.txt", "file.txt", 4, 0o644)
    assert (written.type, written.uid, written.gid) == (VolumeFileType.FILE, 1000, 1000)
    assert volume.read_file("/a/b/file.txt") == "text" and volume.exists("a/b")
    made = volume.make_dir("made", uid=0, gid=0, mode=0o750)
    assert (made.type, made.uid, made.mode) == (VolumeFileType.DIRECTORY, 0, 0o750)

    sandbox = make(volume_mounts={"/mnt/data": volume})
    run = lambda command: sandbox.commands.run(f"cd /mnt/data && {command}", user="root").stdout  # noqa: E731
    assert run("cat a/b/file.txt; stat -c '%U %a' a/b/file.txt made") == "textuser 644\nroot 750\n"
    assert sandbox.commands.run("echo more >> /mnt/data/a/b/file.txt").exit_code == 0, "the user's own file"
    run("ln -s b/file.txt a/link; ln -s /etc/passwd out; mkfifo pipe; touch -d 2001-02-03T04:05:06Z old")
    assert volume.read_file("a/link") == "textmore\n"
    link = volume.get_info("a/link")
    assert (link.type, link.target) == (VolumeFileType.SYMLINK, "b/file.txt")
    assert volume.get_info("old").mtime.isoformat() == "2001-02-03T04:05:06+00:00"
    assert [entry.path for entry in volume.list("a", depth=3)] == ["/a/b", "/a/b/file.txt", "/a/link"]
    assert [entry.name for entry in volume.list("/")] == ["a", "made", "old", "out", "pipe"]
    with pytest.raises(VolumePathNotFoundException):
        volume.read_file("out")
    with pytest.raises(VolumeException, match="regular"):
        volume.read_file("pipe")
    changed = volume.update_metadata("old", uid=0, gid=0, mode=0o600)
    assert (changed.uid, changed.gid, changed.mode) == (0, 0, 0o600)
    assert run("stat -c '%U %a' old") == "root 600\n"
    volume.write_file("a/b/file.txt", io.BytesIO(b"\x00\xff" * 100_000), mode=0o640)
    assert volume.read_file("a/b/file.txt", format="bytes") == b"\x00\xff" * 100_000
    assert run("stat -c '%s %a' a/b/file.txt") == "200000 640\n"
    volume.remove("a")
    assert run("ls") == "made\nold\nout\npipe\n"
    sandbox.kill()
    assert volume.exists("old")
    connected = Volume.connect(volume.volume_id)
    assert connected.get_info("old").mode == 0o600


def test_a_write_that_may_not_overwrite_does_not(volume):
    volume.write_file("file", "first", force=False)
    with pytest.raises(VolumeException, match="exists already"):
        volume.write_file("file", "second", force=False)
    assert volume.read_file("file") == "first"
    volume.write_file("file", "third")
    assert volume.read_file("file") == "third"
    volume.write_file("file", "fourth", force=True)
    assert volume.read_file("file") == "fourth"


def test_large_files_of_a_volume_stream(volume, tmp_path):
    local = tmp_path / "large"
    piece = bytes(range(256)) * 4096
    with open(local, "wb") as file:
        for _ in range(200):
            file.write(piece)
    with open(local, "rb") as file:
        assert volume.write_file("large", file).size == 200 << 20
    read = 0
    for part in volume.read_file("large", format="stream"):
        assert part == (piece * (len(part) // len(piece) + 2))[read % len(piece) :][: len(part)]
        read += len(part)
    assert read == 200 << 20
    # A volume of these SDKs holds 1 GB.
    with open(local, "ab") as file:
        file.truncate(1200 << 20)
    with open(local, "rb") as file, pytest.raises(VolumeException, match="space"):
        volume.write_file("too-large", file)
    assert [entry.name for entry in volume.list("/")] == ["large"]


def test_what_can_not_be_done_with_a_volumes_files_is_said(volume):
    volume.write_file("file", "x")
    volume.make_dir("dir")
    for missing in (
        lambda: volume.read_file("none"),
        lambda: list(volume.read_file("none", format="stream")),
        lambda: volume.get_info("none"),
        lambda: volume.list("none"),
        lambda: volume.remove("none"),
        lambda: volume.update_metadata("none", mode=0o600),
        lambda: volume.write_file("no/such/dir", "x"),
        lambda: volume.make_dir("no/such"),
        lambda: volume.read_file("../../../etc/passwd"),
    ):
        with pytest.raises(VolumePathNotFoundException):
            missing()
    for wrong, says in (
        (lambda: volume.read_file("dir"), "is a directory"),
        (lambda: volume.write_file("dir", "x"), "is a directory"),
        (lambda: volume.list("file"), "not a directory"),
        (lambda: volume.list("/", depth=0), "depth"),
        (lambda: volume.make_dir("dir"), "exists already"),
        (lambda: volume.make_dir("file", force=True), "exists already"),
        (lambda: volume.remove("/"), "itself"),
        (lambda: volume.update_metadata("file", uid=70_000), "uid"),
    ):
        with pytest.raises(VolumeException, match=says):
            wrong()
    volume.make_dir("dir", force=True)
    with pytest.raises(AuthenticationException):
        Volume(volume.volume_id, volume.name, token="x", domain=volume._domain).list("/")
    other = Volume.create(f"tests-{uuid.uuid4().hex[:8]}")
    with pytest.raises(VolumePathNotFoundException):
        Volume(volume.volume_id, volume.name, token=other.token, domain=volume._domain).list("/")
    assert Volume.destroy(other.volume_id) is True
    with pytest.raises(VolumePathNotFoundException):
        other.list("/")
    for gone in (lambda: Volume.get_info(other.volume_id), lambda: Volume.connect(other.volume_id)):
        with pytest.raises(VolumeNotFoundException):
            gone()


async def test_files_without_waiting(volume):
    files = await AsyncVolume.connect(volume.volume_id)
    assert volume.volume_id in [item.volume_id for item in await AsyncVolume.list()]
    assert (await AsyncVolume.get_info(volume.volume_id)).name == volume.name
    await files.make_dir("d/e", force=True)
    assert (await files.write_file("d/file", b"text")).size == 4
    assert await files.read_file("d/file") == "text" and await files.exists("d/file")
    assert b"".join([part async for part in await files.read_file("d/file", format="stream")]) == b"text"
    assert [entry.name for entry in await files.list("d")] == ["e", "file"]
    assert (await files.update_metadata("d/file", mode=0o600)).mode == (await files.get_info("d/file")).mode == 0o600
    await files.remove("d")
    assert not await files.exists("d")
    for missing in (
        lambda: files.read_file("none"),
        lambda: files.get_info("none"),
        lambda: files.list("none"),
        lambda: files.remove("none"),
        lambda: files.update_metadata("none", mode=0o600),
        lambda: files.write_file("no/such", "x"),
        lambda: files.make_dir("no/such"),
    ):
        with pytest.raises(VolumePathNotFoundException):
            await missing()
    other = await AsyncVolume.create(f"tests-{uuid.uuid4().hex[:8]}")
    assert await AsyncVolume.destroy(other.volume_id) is True and await AsyncVolume.destroy(other.volume_id) is False
    for gone in (AsyncVolume.get_info, AsyncVolume.connect):
        with pytest.raises(VolumeNotFoundException):
            await gone(other.volume_id)
