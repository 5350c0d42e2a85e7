"""The same through the SDK's asynchronous half."""

import asyncio

from e2b import AsyncSandbox


async def test_the_whole_of_a_short_life():
    sandbox = await AsyncSandbox.create(timeout=60)
    try:
        assert (await sandbox.commands.run("echo hi")).stdout == "hi\n"
        await sandbox.files.write("a", "b")
        assert await sandbox.files.read("a") == "b"
        events = []
        watch = await sandbox.files.watch_dir("/home/user", on_event=events.append)
        await sandbox.files.write("seen", "x")
        for _ in range(100):
            if events:
                break
            await asyncio.sleep(0.05)
        assert events
        await watch.stop()
        await sandbox.pause()
        again = await AsyncSandbox.connect(sandbox.sandbox_id)
        assert await again.files.read("a") == "b"
        assert await again.is_running()
    finally:
        assert await sandbox.kill() is True
