"""The exact words that clients of E2B's API match on, as they come over the wire."""

import datetime
import json
import os
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

import e2b
import pytest
from e2b import Sandbox

API = os.environ.get("E2B_API_URL") or f"https://api.{os.environ['E2B_DOMAIN']}"
NOBODY = "i" + "0" * 20


def asked(method, path, body=None, base=API, headers=None):
    """Status and body of a request to the API."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"X-API-Key": os.environ["E2B_API_KEY"], "Content-Type": "application/json"} | (headers or {})
    request = urllib.request.Request(base + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def within(sandbox, method, path, body=None, headers=None):
    """The same of a request to the agent in the sandbox."""
    if "E2B_DOMAIN" in os.environ:
        base = f"https://{sandbox.get_host(49983)}"
    else:
        base = os.environ["E2B_SANDBOX_URL"]
    known = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    return asked(method, path, body, base, known | (headers or {}))


ABSENT = (404, f'Sandbox "{NOBODY}" doesn\'t exist or you don\'t have access to it')
OF_THE_API = [
    (("GET", f"/sandboxes/{NOBODY}"), *ABSENT),
    (("DELETE", f"/sandboxes/{NOBODY}"), *ABSENT),
    (("POST", f"/sandboxes/{NOBODY}/timeout", {"timeout": 5}), *ABSENT),
    (("POST", f"/v2/sandboxes/{NOBODY}/connect", {}), *ABSENT),
    (("POST", f"/sandboxes/{NOBODY}/pause", {}), *ABSENT),
    (("POST", "/v2/sandboxes", {"templateID": "nobody-s"}), 404, "template 'nobody-s' not found"),
    (("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 10**8}), 400, "Timeout cannot be greater than 8760 hours"),
    (("GET", "/sandboxes/Not_An_Id"), 400, "Invalid sandbox ID"),
    (
        ("POST", "/v2/sandboxes", {"templateID": "base", "network": {"allowOut": ["example.com"]}}),
        400,
        "with domains in allowOut, denyOut must have 0.0.0.0/0 to block all other traffic",
    ),
]


@pytest.mark.parametrize(("request_", "status", "message"), OF_THE_API, ids=lambda value: str(value)[:60])
def test_the_api_says_it_in_these_words(request_, status, message):
    found, body = asked(*request_)
    assert (found, body["code"], body["message"]) == (status, status, message)


def test_creates_with_one_key_make_one_sandbox_however_many_come_at_once():
    key = {"Idempotency-Key": uuid.uuid4().hex}
    wanted = {"templateID": "base", "timeout": 60}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: asked("POST", "/v2/sandboxes", wanted, headers=key), range(8)))
    ids = {body.get("sandboxID") for _, body in answers}
    assert [status for status, _ in answers] == [201] * 8 and len(ids) == 1, answers
    tokens = {body["envdAccessToken"] for _, body in answers}
    assert len(tokens) == 1, "each answer opens the sandbox"
    again = asked("POST", "/v2/sandboxes", wanted, headers=key)
    assert again[0] == 201 and again[1]["sandboxID"] in ids
    status, other = asked("POST", "/v2/sandboxes", wanted | {"timeout": 61}, headers=key)
    assert (status, other["error_code"]) == (422, "idempotency_request_mismatch"), other
    assert asked("DELETE", f"/sandboxes/{ids.pop()}")[0] == 204


def test_names_of_templates_are_in_small_letters(make):
    assert make(" Base ").get_info().name == "base"
    with pytest.raises(Exception, match="template 'base:nope' not found"):
        make("Base:nope")


def test_there_are_no_figures_of_tomorrow(sandbox):
    tomorrow = datetime.datetime.now() + datetime.timedelta(days=1)
    assert sandbox.get_metrics(start=tomorrow) == [] and sandbox.get_metrics(end=tomorrow) != []


def test_without_a_key_there_is_nothing(make):
    status, body = asked("GET", "/v2/sandboxes", headers={"X-API-Key": "e2b_" + "0" * 40})
    assert (status, body["code"]) == (401, 401)


def test_the_agent_says_it_in_these_words(sandbox):
    token = {"X-Access-Token": sandbox._envd_access_token}
    connect = token | {"Connect-Protocol-Version": "1"}
    rpc = lambda method, body, **headers: within(sandbox, "POST", method, body, connect | headers)  # noqa: E731
    closed = "unauthorized access, please provide a valid access token or method signing if supported"
    assert within(sandbox, "GET", "/envs") == (401, {"code": 401, "message": closed})
    assert within(sandbox, "GET", "/files?path=/nothing", headers=token) == (
        404,
        {"code": 404, "message": "path '/nothing' does not exist"},
    )
    assert within(sandbox, "GET", "/files?path=/etc", headers=token) == (
        400,
        {"code": 400, "message": "path '/etc' is a directory"},
    )
    assert within(sandbox, "GET", "/files?path=x&signature=v1_no") == (
        401,
        {"code": 401, "message": "invalid signature"},
    )
    assert within(sandbox, "GET", "/files?path=x") == (401, {"code": 401, "message": "missing signature query parameter"})
    assert rpc("/filesystem.Filesystem/Stat", {"path": "/nothing"})[1]["code"] == "not_found"
    assert rpc("/filesystem.Filesystem/MakeDir", {"path": "/etc"})[1]["code"] == "already_exists"
    assert rpc("/process.Process/SendSignal", {"process": {"pid": 999999}, "signal": "SIGNAL_SIGKILL"})[1]["code"] == "not_found"
    nobody = rpc("/process.Process/List", {}, Authorization="Basic bm9ib2R5LXM6")
    assert nobody[0] in (200, 401), nobody


def test_what_a_program_ended_with_is_said_so(sandbox):
    with pytest.raises(e2b.CommandExitException) as ended:
        sandbox.commands.run("exit 3")
    assert (ended.value.exit_code, ended.value.error) == (3, "exit status 3")
    with pytest.raises(e2b.CommandExitException) as ended:
        sandbox.commands.run("kill -9 $$")
    assert (ended.value.exit_code, ended.value.error) == (-1, "signal: killed")
    with pytest.raises(e2b.InvalidArgumentException, match="cwd '/nowhere' does not exist"):
        sandbox.commands.run("true", cwd="/nowhere")


def test_snapshots_of_one_sandbox_come_page_by_page_newest_first(make):
    one, other = make(), make()
    made = []
    for number in range(5):
        made.append(one.create_snapshot(name=f"page-{number}-{uuid.uuid4().hex}").snapshot_id)
        other.create_snapshot()
    try:
        seen, pages = [], 0
        listing = Sandbox.list_snapshots(sandbox_id=one.sandbox_id, limit=2)
        while listing.has_next:
            page = listing.next_items()
            assert 0 < len(page) <= 2, "no page of a filter is empty"
            seen += [item.snapshot_id for item in page]
            pages += 1
        assert (seen, pages) == (made[::-1], 3)
    finally:
        for sandbox in (one, other):
            for item in Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id).next_items():
                Sandbox.delete_snapshot(item.snapshot_id)


def test_what_programs_write_is_in_the_log(make):
    sandbox = make()
    sandbox.commands.run("echo to be found; echo and this >&2")
    body = asked("GET", f"/v2/sandboxes/{sandbox.sandbox_id}/logs?search=found")[1]
    (line,) = body["logs"]
    assert line["message"] == "to be found" and line["level"] == "info"
    assert line["fields"]["event_type"] == "stdout" and line["fields"]["logger"] == "process"
    both = asked("GET", f"/sandboxes/{sandbox.sandbox_id}/logs")[1]
    assert [entry["message"] for entry in both["logEntries"]] == [json.loads(entry["line"])["message"] for entry in both["logs"]]
    streams = {entry["message"]: entry["fields"].get("event_type") for entry in both["logEntries"]}
    assert streams["and this"] == "stderr"


@pytest.mark.skipif(not hasattr(e2b, "AsyncCommandInputHandle"), reason="the older SDK knows no servers for names")
def test_servers_for_names_are_kept_and_shown(make):
    rules = {"allow_out": ["example.com"], "deny_out": ["0.0.0.0/0"], "dns_servers": ["192.0.2.53"]}
    sandbox = make(network=rules)
    assert sandbox.get_info().network["dns_servers"] == ["192.0.2.53"]
    sandbox.update_network({"allow_out": ["example.com"], "deny_out": ["0.0.0.0/0"], "dns_servers": []})
    assert sandbox.get_info().network["dns_servers"] == []
    with pytest.raises(Exception, match="dnsServers must be IPv4 addresses"):
        make(network=rules | {"dns_servers": ["::1"]})


def test_a_sandbox_has_identities_of_its_own(make):
    token = e2b.Secret.iam_token(audience="https://vault.test", token_type="JWT-SVID")
    add = lambda context: {"headers": {"Authorization": f"Bearer {context.iam.tokens['vault']}"}}
    sandbox = make(iam={"tokens": {"vault": token}}, network={"rules": {"api.atoll.test": [{"transform": add}]}})
    headers = {"Authorization": "Bearer ${e2b.identity.tokens.vault}"}
    assert sandbox.get_info().network["rules"] == {"api.atoll.test": [{"transform": {"headers": headers}}]}
    # Its token was had: what lacks is the server.
    asked_for = "curl -s https://api.atoll.test/"
    assert "api.atoll.test could not be asked" in sandbox.commands.run(asked_for).stdout
    sandbox.update_network({"rules": {"api.atoll.test": [{"transform": add}]}})
    assert "api.atoll.test could not be asked" in sandbox.commands.run(asked_for).stdout
    with pytest.raises(Exception, match="the sandbox has no identity `other`"):
        add = lambda context: {"headers": {"Authorization": context.iam.tokens["other"]}}
        sandbox.update_network({"rules": {"api.atoll.test": [{"transform": add}]}})
    with pytest.raises(Exception, match="the only tokenType is JWT-SVID"):
        make(iam={"tokens": {"vault": {"audience": "a", "token_type": "X.509"}}})
