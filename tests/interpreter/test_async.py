"""The same methods of AsyncSandbox."""

import asyncio

import pytest
from e2b import InvalidArgumentException, NotFoundException, SandboxException, TimeoutException
from e2b_code_interpreter import AsyncSandbox


async def test_values_output_and_errors(async_sandbox: AsyncSandbox):
    seen = []

    async def note(message):
        seen.append(message)

    execution = await async_sandbox.run_code(
        "import sys; print('o'); print('e', file=sys.stderr); display(1); 2",
        on_stdout=note,
        on_stderr=note,
        on_result=note,
    )
    assert execution.text == "2" and "".join(execution.logs.stdout + execution.logs.stderr) == "o\ne\n"
    assert len(seen) == 4
    failed = await async_sandbox.run_code("1/0", on_error=note)
    assert failed.error.name == "ZeroDivisionError" and seen[-1] is failed.error
    assert (await async_sandbox.run_code("import os; os.environ['A']", envs={"A": "1"})).text == "1"
    assert (await async_sandbox.run_code("echo 1", language="bash")).logs.stdout == ["1\n"]


async def test_contexts(async_sandbox: AsyncSandbox):
    contexts = [await async_sandbox.create_code_context(cwd="/tmp") for _ in range(3)]
    for number, context in enumerate(contexts):
        await async_sandbox.run_code(f"x = {number}", context=context)
    values = await asyncio.gather(*(async_sandbox.run_code("x", context=context) for context in contexts))
    assert [value.text for value in values] == ["0", "1", "2"]
    await async_sandbox.restart_code_context(contexts[0])
    assert (await async_sandbox.run_code("x", context=contexts[0])).error.name == "NameError"
    for context in contexts:
        await async_sandbox.remove_code_context(context.id)
    listed = [context.id for context in await async_sandbox.list_code_contexts()]
    assert not any(context.id in listed for context in contexts)
    with pytest.raises(NotFoundException):
        await async_sandbox.run_code("1", context=contexts[0])
    with pytest.raises(NotFoundException):
        await async_sandbox.remove_code_context(contexts[0])
    with pytest.raises(NotFoundException):
        await async_sandbox.restart_code_context(contexts[0])


async def test_what_is_wrong_is_said(async_sandbox: AsyncSandbox):
    (context, *_) = await async_sandbox.list_code_contexts()
    with pytest.raises(InvalidArgumentException):
        await async_sandbox.run_code("1", language="python", context=context)
    with pytest.raises(SandboxException, match="cobol"):
        await async_sandbox.create_code_context(language="cobol")
    with pytest.raises(TimeoutException):
        await async_sandbox.run_code("import time; time.sleep(60)", timeout=1)
    assert (await async_sandbox.run_code("1+1")).text == "2"


async def test_who_goes_away_interrupts_the_code(async_sandbox: AsyncSandbox):
    context = await async_sandbox.create_code_context()
    began = asyncio.Event()
    code = "import time\ntry:\n  print('begun', flush=True); time.sleep(300)\nexcept KeyboardInterrupt:\n  interrupted = True"
    running = asyncio.create_task(async_sandbox.run_code(code, context=context, on_stdout=lambda _: began.set()))
    await asyncio.wait_for(began.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await async_sandbox.run_code("interrupted", context=context, timeout=30)).text == "True"
    await async_sandbox.remove_code_context(context)
