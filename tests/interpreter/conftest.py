"""Sandboxes of the code interpreter, by its unmodified SDK. E2B_API_KEY, E2B_API_URL and E2B_SANDBOX_URL say which Atoll; it
has the template `code-interpreter-v1`."""

import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox


@pytest.fixture(scope="session")
def sandbox():
    """One for the tests that leave it as they found it."""
    with Sandbox.create(timeout=600, envs={"ALWAYS": "here"}) as sandbox:
        yield sandbox


@pytest.fixture
def fresh():
    with Sandbox.create(timeout=120) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
async def async_sandbox():
    sandbox = await AsyncSandbox.create(timeout=600)
    yield sandbox
    await sandbox.kill()
