"""What an agent can do over stdio, and what it is told when it can't."""

import base64
import http.client
import json
import subprocess
import time
import urllib.parse

from agent import ENVIRONMENT, over_stdio, rest, status_of


async def test_the_tools_say_what_they_do():
    async with over_stdio() as agent:
        tools = await agent.tools()
        assert set(tools) == {
            "create_sandbox", "run_code", "run_command", "read_file", "write_file", "list_files", "preview_url",
            "list_sandboxes", "destroy_sandbox",
        }
        for tool in tools.values():
            assert tool.description and tool.annotations
            for name, schema in tool.model_dump(by_alias=True)["inputSchema"].get("properties", {}).items():
                assert schema.get("description"), (tool.name, name)


async def test_a_sandbox_ends_with_its_session_unless_it_is_to_be_kept():
    async with over_stdio() as agent:
        gone, kept = await agent.sandbox(), await agent.sandbox(keep=True)
        listed = await agent.said("list_sandboxes")
        assert f"{gone} running base (of this session)\n" in listed and f"{kept} running base\n" in listed
        shown = rest("GET", f"/v1/sandboxes/{gone}")[1]
        # When nobody is left to end it, it ends by itself.
        assert (shown["timeout_sec"], shown["on_timeout"]) == (3600, "kill")
        assert rest("GET", f"/v1/sandboxes/{kept}")[1]["timeout_sec"] == 0
    assert (status_of(gone), status_of(kept)) == ("stopped", "running")
    async with over_stdio("--keep") as agent:
        assert await agent.said("destroy_sandbox", sandbox_id=kept) == "destroyed\n"
        assert status_of(kept) == "stopped"
        kept = await agent.sandbox()
    assert status_of(kept) == "running"
    assert rest("DELETE", f"/v1/sandboxes/{kept}")[0] == 204


async def test_code_is_run_and_remembered():
    async with over_stdio() as agent:
        said = await agent.said("create_sandbox")
        assert "template code-interpreter" in said
        sandbox = said.split("\n")[0]

        async def code(code, **more):
            return await agent.call("run_code", sandbox_id=sandbox, code=code, **more)

        assert (await code("x = 6")).text == ""
        answer = await code("print('said')\nx * 7")
        assert (answer.failed, answer.text) == (False, "said\n42\n")
        answer = await code("1 / 0")
        assert answer.failed and "ZeroDivisionError" in answer.text
        answer = await code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
        assert not answer.failed and answer.pictures[0].startswith(b"\x89PNG")
        assert (await code("echo $((6 * 7))", language="bash")).text == "42\n"
        assert (await code("[1, 2].map(n => n * 2)", language="javascript")).text.strip() == "[ 2, 4 ]"
        assert "language" in await agent.refusal("run_code", sandbox_id=sandbox, code="x", language="cobol")

        answer = await code("import time\nprint('began', flush=True)\ntime.sleep(60)", timeout_sec=2)
        assert answer.failed and answer.text.startswith("began\n") and "timeout_sec" in answer.text
        assert (await code("x")).text == "6\n"
        # Far more than anybody reads.
        answer = await code("for _ in range(200_000): print('x' * 100)", timeout_sec=120)
        assert answer.failed and len(answer.text) < 40_000 and "left out" in answer.text
        answer = await code("print('y' * 1_000_000)")
        assert not answer.failed and len(answer.text) < 40_000
        assert "/tmp/.atoll" not in await agent.said("run_command", sandbox_id=sandbox, command="ls -a /tmp")


async def test_commands():
    async with over_stdio() as agent:
        sandbox = await agent.sandbox(env={"WHO": "agent"})

        async def run(command, **more):
            return await agent.call("run_command", sandbox_id=sandbox, command=command, **more)

        assert (await run("echo $WHO; id -un")).text == "exit code 0\n--- stdout ---\nagent\nuser\n"
        answer = await run("pwd; echo no >&2; exit 3", cwd="/tmp", user="root", env={"A": "b"})
        assert (answer.failed, answer.text) == (True, "exit code 3\n--- stdout ---\n/tmp\n--- stderr ---\nno\n")
        answer = await run("echo began; sleep 60", timeout_sec=1)
        assert answer.failed and "began" in answer.text and "Next: " in answer.text
        answer = await run("head -c 300000 /dev/zero | tr '\\0' x")
        assert not answer.failed and len(answer.text) < 40_000 and "bytes are left out here" in answer.text
        answer = await run("yes", timeout_sec=60)
        assert answer.failed and "Next: send output to a file" in answer.text
        answer = await run("printf '\\377\\376'")
        assert answer.text.startswith("exit code 0\n")
        assert "timeout_sec" in await agent.refusal("run_command", sandbox_id=sandbox, command="true", timeout_sec=0)


async def test_files_go_in_and_out():
    async with over_stdio() as agent:
        sandbox = await agent.sandbox()

        async def write(path, content, **more):
            return await agent.said("write_file", sandbox_id=sandbox, path=path, content=content, **more)

        async def read(path, **more):
            return await agent.call("read_file", sandbox_id=sandbox, path=path, **more)

        assert await write("notes/ü.txt", "a\nb\nc\n") == "6 bytes written to /home/user/notes/ü.txt\n"
        assert (await read("/home/user/notes/ü.txt")).texts == ["a\nb\nc\n"]
        assert (await read("notes/ü.txt", first_line=2, lines=1)).texts == [
            "b\n", "(lines 2 to 2 of 3; go on with first_line 3)",
        ]
        listed = await agent.said("list_files", sandbox_id=sandbox, path="notes")
        assert listed.split() == ["file", "6", "/home/user/notes/ü.txt"]
        await write("long.txt", "".join(f"line {n}\n" for n in range(1, 10_001)))
        whole, at = "", 1
        while True:
            shown, *note = (await read("long.txt", first_line=at)).texts
            whole += shown
            assert len(shown) <= 32 << 10
            if not note or "first_line" not in note[0]:
                break
            at = int(note[0].split("first_line ")[1].rstrip(")"))
        assert whole.splitlines() == [f"line {n}" for n in range(1, 10_001)]

        picture = base64.b64encode(b"\x89PNG\r\n\x1a\n and the rest").decode()
        await write("picture.png", picture, base64=True)
        assert (await read("picture.png")).pictures == [b"\x89PNG\r\n\x1a\n and the rest"]
        await write("bytes", base64.b64encode(b"\xff\x00").decode(), base64=True)
        assert (await read("bytes")).texts[0] == base64.b64encode(b"\xff\x00").decode()
        await agent.said("run_command", sandbox_id=sandbox, command="head -c 100000 /dev/urandom > large; truncate -s 5M huge")
        assert "Next: look into it" in await agent.refusal("read_file", sandbox_id=sandbox, path="large")
        assert "Next: look at parts" in await agent.refusal("read_file", sandbox_id=sandbox, path="huge")
        assert "Next: list_files" in await agent.refusal("read_file", sandbox_id=sandbox, path="nothing")
        assert "base64" in await agent.refusal("write_file", sandbox_id=sandbox, path="x", content="!", base64=True)
        await agent.said("run_command", sandbox_id=sandbox, command="mkdir many; cd many; seq 1 3000 | xargs touch")
        listed = await agent.said("list_files", sandbox_id=sandbox, path="many")
        assert len(listed) < 40_000 and "more; list a directory further down" in listed


async def test_a_port_is_reached_from_outside():
    async with over_stdio() as agent:
        sandbox = await agent.sandbox()
        await agent.said("write_file", sandbox_id=sandbox, path="site/index.html", content="here I am")
        said = await agent.said("run_command", sandbox_id=sandbox, command="cd site && python3 -m http.server 8000", background=True)
        assert said.startswith("started with pid ")
        ready = "until curl -so /dev/null localhost:8000; do sleep 0.05; done"
        await agent.said("run_command", sandbox_id=sandbox, command=ready)
        url = urllib.parse.urlsplit((await agent.said("preview_url", sandbox_id=sandbox, port=8000)).strip())
        # Names below localhost are this machine to browsers, and to nobody else.
        connection = http.client.HTTPConnection("127.0.0.1", url.port)
        connection.request("GET", f"{url.path}?{url.query}", headers={"Host": url.netloc})
        answer = connection.getresponse()
        assert answer.status in (302, 303, 307) and not answer.read()
        # From then on a cookie opens it.
        cookie = answer.headers["Set-Cookie"].split(";")[0]
        connection.request("GET", answer.headers["Location"], headers={"Host": url.netloc, "Cookie": cookie})
        assert connection.getresponse().read() == b"here I am"
        assert "port" in await agent.refusal("preview_url", sandbox_id=sandbox, port=0)


async def test_refusals_say_the_next_step():
    async with over_stdio() as agent:
        base = await agent.sandbox()
        assert "template `code-interpreter`" in await agent.refusal("run_code", sandbox_id=base, code="1")
        assert "Next: create_sandbox" in await agent.refusal("run_command", sandbox_id="nonsense", command="true")
        absent = "sb-" + "a" * 20
        assert "Next: list_sandboxes" in await agent.refusal("run_command", sandbox_id=absent, command="true")
        assert "Next: leave template out" in await agent.refusal("create_sandbox", template="no-such-template")
        assert "memory" in await agent.refusal("create_sandbox", template="base", memory_mb=1)
        await agent.said("destroy_sandbox", sandbox_id=base)
        assert "Next: make a new one" in await agent.refusal("run_command", sandbox_id=base, command="true")


class Raw:
    """The protocol itself, for what no SDK does on purpose."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(["atoll", "mcp"], env=ENVIRONMENT, text=True, **pipes)
        self.send("initialize", 1, protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "raw", "version": "1"})
        assert self.read()["result"]["serverInfo"]["name"] == "atoll"
        self.send("notifications/initialized")

    def send(self, method, number=None, **params):
        message = {"jsonrpc": "2.0", "method": method, "params": params, **({"id": number} if number else {})}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def call(self, number, tool, **arguments):
        self.send("tools/call", number, name=tool, arguments=arguments)

    def read(self):
        return json.loads(self.process.stdout.readline())


def made_by_agents():
    """Ids of living sandboxes that agents made."""
    return {it["id"] for it in rest("GET", "/v1/sandboxes?metadata=made-by%3Datoll%2520mcp")[1]["items"]}


def test_an_agent_that_goes_in_the_middle_of_a_create_leaves_nothing():
    before = made_by_agents()
    for signal in [False, True]:
        raw = Raw()
        for number in range(2, 5):
            raw.call(number, "create_sandbox", template="base", memory_mb=64)
        if signal:
            raw.process.terminate()
        else:
            raw.process.stdin.close()
        assert raw.process.wait(timeout=30) == 0
        assert made_by_agents() == before


def test_what_is_cancelled_ends_in_the_sandbox_too():
    raw = Raw()
    raw.call(2, "create_sandbox", template="base", memory_mb=64)
    sandbox = raw.read()["result"]["content"][0]["text"].split("\n")[0]
    raw.call(3, "run_command", sandbox_id=sandbox, command="exec sleep 4321", timeout_sec=600)

    def runs():
        processes = rest("GET", f"/v1/sandboxes/{sandbox}/processes")[1]["items"]
        return any("4321" in " ".join(process["args"]) for process in processes)

    def wait_until(condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_until(runs)
    raw.send("notifications/cancelled", requestId=3, reason="enough")
    wait_until(lambda: not runs())
    raw.process.stdin.close()
    assert raw.process.wait(timeout=30) == 0
    assert status_of(sandbox) == "stopped"
