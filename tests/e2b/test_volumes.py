"""Volumes: files that outlive the sandboxes which mount them."""

import uuid

import pytest
from e2b import AsyncSandbox, Sandbox, SandboxException, Volume, VolumeException


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
