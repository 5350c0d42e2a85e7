"""Fixtures for the tests with the unmodified E2B SDK. The environment says which Atoll: scripts/e2b.sh sets it."""

import pytest
from e2b import Sandbox


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
