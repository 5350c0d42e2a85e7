"""Ports of sandboxes: under their own host names where there are such, else by the headers that say which."""

import http.client
import os
import time
import urllib.error
import urllib.request

import e2b
import pytest

# What the newest SDK has and the older one hasn't.
NEW = getattr(e2b, "AsyncCommandInputHandle", None)
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


def until_it_answers(sandbox, port, path="/"):
    """What the program inside answers once it listens: 502 is said by the proxy alone."""
    deadline = time.monotonic() + 30
    while (answer := fetch(sandbox, port, path))[0] == 502:
        assert time.monotonic() < deadline, f"nothing inside answers: {answer}"
        time.sleep(0.1)
    return answer


# Answers with the names and values of the request's headers as they came.
MIRROR = r"""
import http.server
class Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(f"{name}: {value}\n" for name, value in self.headers.items()).encode())
http.server.ThreadingHTTPServer(("", 8124), Mirror).serve_forever()
"""


def test_requests_bear_the_host_name_that_the_sandbox_wants(make):
    sandbox = make(network={"mask_request_host": "own.example:${PORT}"})
    sandbox.files.write("mirror.py", MIRROR)
    sandbox.commands.run("python3 mirror.py", background=True)
    status, headers = until_it_answers(sandbox, 8124)
    assert status == 200 and "Host: own.example:8124\n" in headers, headers
    asked = sandbox.get_host(8124) if HOST_NAMES else os.environ["E2B_SANDBOX_URL"].removeprefix("http://")
    assert f"X-Forwarded-Host: {asked}\n" in headers, headers
    assert sandbox.get_info().network["mask_request_host"] == "own.example:${PORT}"


# A server that speaks TLS alone, with a certificate that nobody has signed for. Below /ends an answer has no length and ends
# with its connection, which is just closed; below /short it is shorter than it says.
SECURE = """
import http.server, ssl, subprocess
subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
                "-keyout", "key.pem", "-out", "cert.pem"], check=True)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path not in ("/ends", "/short"):
            return super().do_GET()
        self.send_response(200)
        if self.path == "/short":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"to the end")

server = http.server.ThreadingHTTPServer(("", 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.mark.skipif(NEW is None, reason="the older SDK knows no ports that speak TLS")
def test_a_port_that_speaks_tls_is_reached_whatever_its_certificate(make):
    sandbox = make(network={"https_ports": [8443]})
    sandbox.files.write("www/secure.py", SECURE)
    sandbox.files.write("www/hello.txt", "by TLS")
    sandbox.commands.run("cd www && python3 secure.py", background=True)
    assert until_it_answers(sandbox, 8443, "/hello.txt") == (200, "by TLS")
    assert until_it_answers(sandbox, 8443, "/ends") == (200, "to the end")
    with pytest.raises((OSError, http.client.HTTPException)):
        until_it_answers(sandbox, 8443, "/short")
    assert sandbox.get_info().network["https_ports"] == [8443]
    sandbox.update_network({"deny_out": ["192.0.2.1"]})
    assert sandbox.get_info().network["https_ports"] == [8443], "an update is about what goes out"


@pytest.mark.skipif(not HOST_NAMES, reason="there are no host names over plain HTTP")
def test_host_names_bear_port_and_sandbox(sandbox):
    assert sandbox.get_host(8123) == f"8123-{sandbox.sandbox_id}.{os.environ['E2B_DOMAIN']}"
    assert sandbox.get_mcp_url().startswith(f"https://50005-{sandbox.sandbox_id}.")
    url = f"https://api.{os.environ['E2B_DOMAIN']}/health"
    with urllib.request.urlopen(url) as answer:
        assert answer.status in (200, 204)
