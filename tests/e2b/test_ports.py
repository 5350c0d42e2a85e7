"""Ports of sandboxes: under their own host names where there are such, else by the headers that say which."""

import os
import time
import urllib.error
import urllib.request

import pytest

HOST_NAMES = "E2B_DOMAIN" in os.environ


def fetch(sandbox, port, path="/", **headers):
    """Status and body of a GET to a port inside."""
    if HOST_NAMES:
        url = f"https://{sandbox.get_host(port)}{path}"
    else:
        url = f"{os.environ['E2B_SANDBOX_URL']}{path}"
        headers |= {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def serve(sandbox, port):
    sandbox.files.write("www/hello.txt", "hello from inside")
    sandbox.commands.run(f"python3 -m http.server {port} --directory www", background=True)
    deadline = time.monotonic() + 20
    while "port is not open" in fetch(sandbox, port)[1]:
        assert time.monotonic() < deadline, "the server inside does not listen"


def test_a_port_is_reached(sandbox):
    status, body = fetch(sandbox, 8123)
    assert status == 502 and "port is not open" in body
    serve(sandbox, 8123)
    assert fetch(sandbox, 8123, "/hello.txt") == (200, "hello from inside")


def test_ports_can_be_closed_to_who_has_no_token(make):
    sandbox = make(network={"allow_public_traffic": False})
    token = sandbox.traffic_access_token
    assert token
    header = {"E2b-Traffic-Access-Token": token}
    deadline = time.monotonic() + 20
    sandbox.files.write("www/hello.txt", "for few")
    sandbox.commands.run("python3 -m http.server 8123 --directory www", background=True)
    while fetch(sandbox, 8123, "/hello.txt", **header) != (200, "for few"):
        assert time.monotonic() < deadline, "the server inside does not answer"
    assert fetch(sandbox, 8123, "/hello.txt")[0] == 403
    assert fetch(sandbox, 8123, "/hello.txt", **{"E2b-Traffic-Access-Token": "0" * 64})[0] == 403
    # Files and commands have their own token.
    assert sandbox.commands.run("echo on").stdout == "on\n"


def test_a_sandbox_that_is_gone_answers_502(make):
    sandbox = make()
    serve(sandbox, 8123)
    sandbox.kill()
    status, body = fetch(sandbox, 8123)
    assert status == 502 and "was not found" in body


@pytest.mark.skipif(not HOST_NAMES, reason="there are no host names over plain HTTP")
def test_host_names_bear_port_and_sandbox(sandbox):
    assert sandbox.get_host(8123) == f"8123-{sandbox.sandbox_id}.{os.environ['E2B_DOMAIN']}"
    assert sandbox.get_mcp_url().startswith(f"https://50005-{sandbox.sandbox_id}.")
    url = f"https://api.{os.environ['E2B_DOMAIN']}/health"
    with urllib.request.urlopen(url) as answer:
        assert answer.status in (200, 204)
