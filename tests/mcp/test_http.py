"""Over HTTP: who may in, and that everybody acts for themselves."""

import http.client
import json
import os
import subprocess
import urllib.parse

import pytest

from agent import ENVIRONMENT, KEY, URL, over_http, server, status_of

HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}


def as_admin(*arguments):
    """What the command line of Atoll's admin says, who is known by the data directory alone."""
    env = {name: value for name, value in os.environ.items() if name not in ("ATOLL_URL", "ATOLL_API_KEY")}
    done = subprocess.run(["atoll", "--json", *arguments], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "null")


def key(name, *options):
    return as_admin("key", "create", name, *options)["key"]


@pytest.fixture(scope="module")
def address():
    """Of a server whose own environment has a key, which must be worth nothing to those who bring none."""
    with server() as address:
        yield address


def ask(address, body=HELLO, method="POST", key=KEY, **headers):
    """Status, headers and answer of one request."""
    url = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        sent["Authorization"] = f"Bearer {key}"
    connection.request(method, url.path, body if isinstance(body, bytes) else json.dumps(body), sent)
    answer = connection.getresponse()
    # Streams of the server's own have no end.
    text = answer.read().decode() if answer.status != 200 or method != "GET" else ""
    connection.close()
    return answer.status, answer.headers, text


async def test_a_session_with_the_callers_own_key(address):
    async with over_http(address) as agent:
        assert len(await agent.tools()) == 9
        sandbox = await agent.sandbox()
        assert "6\n" in await agent.said("run_command", sandbox_id=sandbox, command="expr 2 \\* 3")
    # The SDK ends the session; what it made goes behind the answer.
    for _ in range(600):
        if status_of(sandbox) == "stopped":
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError(status_of(sandbox))


async def test_a_key_can_do_what_it_may_and_no_more(address):
    reader = key("mcp-reader", "--scope", "read")
    async with over_http(address, reader) as agent:
        await agent.said("list_sandboxes")
        assert "scope" in await agent.refusal("create_sandbox", template="base")


def test_who_brings_no_good_key_is_not_let_in(address):
    for bad in [None, "atl_0000", "x" * 5000, "two words"]:
        status, headers, text = ask(address, key=bad)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), text
    status, _, _ = ask(address, key=None, X_API_Key=KEY)
    assert status == 200
    status, _, text = ask(address.removesuffix("/mcp") + "/other")
    assert (status, "/mcp" in text) == (404, True)


def test_web_pages_and_names_of_others_are_kept_out(address):
    assert ask(address, Origin="https://evil.example")[0] == 403
    assert ask(address, Origin="null")[0] == 403
    assert ask(address, Host="rebound.evil.example")[0] == 403
    with server("--allow-host", "mcp.example") as named:
        assert ask(named, Host="mcp.example")[0] == 200
        assert ask(named, Host="other.example")[0] == 403


def test_a_session_is_of_use_only_to_the_key_that_began_it(address):
    thief = key("mcp-thief")
    status, headers, _ = ask(address)
    session = headers["Mcp-Session-Id"]
    assert status == 200
    tools = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    assert ask(address, tools, Mcp_Session_Id=session)[0] == 200
    for method in ["POST", "GET", "DELETE"]:
        assert ask(address, tools, method, thief, Mcp_Session_Id=session)[0] == 404, method
    for forged in [session[:-1] + ("0" if session[-1] != "0" else "1"), session.split(".")[0], "x"]:
        assert ask(address, tools, Mcp_Session_Id=forged)[0] == 404
    assert ask(address, b"", "DELETE", Mcp_Session_Id=session)[0] in (200, 202, 204)
    assert ask(address, tools, Mcp_Session_Id=session)[0] == 404


async def test_a_key_that_is_deleted_is_worth_nothing_at_once(address):
    made = as_admin("key", "create", "mcp-doomed")
    async with over_http(address, made["key"]) as agent:
        await agent.said("list_sandboxes")
        as_admin("key", "rm", made["id"])
        assert "Next: tell the user" in await agent.refusal("list_sandboxes")


def test_what_is_asked_is_bounded(address):
    large = json.dumps({**HELLO, "pad": "x" * (9 << 20)}).encode()
    assert ask(address, large)[0] == 413
    assert ask(address, b"{")[0] in (400, 415, 422)
    tools = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "list_sandboxes", "arguments": {}}}
    # Nothing is done without a session, in no version of the protocol.
    meta = {f"io.modelcontextprocotol/{name}": value for name, value in
            {"protocolVersion": "2026-07-28", "clientInfo": HELLO["params"]["clientInfo"], "clientCapabilities": {}}.items()}
    modern = {**tools, "params": {**tools["params"], "_meta": meta}}
    for body, headers in [(tools, {}), (modern, {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call",
                                                "Mcp_Name": "list_sandboxes"})]:
        status, _, text = ask(address, body, **headers)
        assert status != 200 or '"error"' in text, text
        assert "sb-" not in text and "(none)" not in text


async def test_a_key_has_a_bounded_number_of_sessions(address):
    many = key("mcp-many")
    answers = [ask(address, key=many) for _ in range(65)]
    assert [status for status, _, _ in answers[:64]] == [200] * 64
    assert "64 sessions" in answers[64][2]
    assert "64 sessions" not in ask(address)[2], "others have room"
    for _, headers, _ in answers[:64]:
        ask(address, b"", "DELETE", many, Mcp_Session_Id=headers["Mcp-Session-Id"])


async def test_sessions_end_with_the_server():
    with server() as address:
        context = over_http(address)
        agent = await context.__aenter__()
        sandbox = await agent.sandbox()
        assert status_of(sandbox) == "running"
    # Leaving waits for the process, which waits for what its sessions made.
    assert status_of(sandbox) == "stopped"
    try:
        await context.__aexit__(None, None, None)
    except BaseException:  # The connection is gone; whatever the SDK makes of that.
        pass


def test_an_address_that_others_reach_needs_a_name():
    refused = subprocess.run(["atoll", "mcp", "--http", "0.0.0.0:0"], env=ENVIRONMENT, capture_output=True, text=True)
    assert refused.returncode == 1 and "--allow-host" in refused.stderr, refused.stderr


def test_a_server_that_is_away_is_said_so():
    with server(env={**ENVIRONMENT, "ATOLL_URL": "http://127.0.0.1:9"}) as address:
        status, headers, text = ask(address)
        assert (status, headers["Retry-After"]) == (503, "1") and "127.0.0.1:9" in text
    assert URL not in text
