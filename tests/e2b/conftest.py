"""Fixtures for the tests with the unmodified E2B SDK. The environment says which Atoll: scripts/e2b.sh sets it."""

import os

import calls
import pytest
from e2b import Sandbox

# Where it is noted which methods were called, when all tests are run.
NOTES = os.environ.get("ATOLL_E2B_CALLS")
labels = calls.watch() if NOTES else []


def pytest_sessionfinish():
    if NOTES:
        calls.write(NOTES, labels)


@pytest.fixture
def make():
    """Creates sandboxes that are gone after the test."""
    made = []

    def create(*args, **kwargs):
        kwargs.setdefault("timeout", 120)
        sandbox = Sandbox.create(*args, **kwargs)
        made.append(sandbox)
        return sandbox

    yield create
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def sandbox(make):
    return make()
