"""An agent as others write them: a session with `atoll mcp` by the official MCP SDK, of either generation."""

import base64
import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import urllib.error
import urllib.request

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

NEW = int(importlib.metadata.version("mcp").split(".")[0]) >= 2
URL, KEY = os.environ["ATOLL_URL"], os.environ["ATOLL_API_KEY"]
ENVIRONMENT = {"PATH": os.environ["PATH"], "ATOLL_URL": URL, "ATOLL_API_KEY": KEY}

if NEW:
    import httpx2 as httpx
    from mcp import Client
else:
    import httpx


class Answer:
    """What a tool said."""

    def __init__(self, result):
        self.failed = result.is_error if NEW else result.isError
        self.texts = [block.text for block in result.content if block.type == "text"]
        self.text = "".join(self.texts)
        self.pictures = [base64.b64decode(block.data) for block in result.content if block.type == "image"]


class Agent:
    def __init__(self, session):
        self.session = session

    async def tools(self):
        return {tool.name: tool for tool in (await self.session.list_tools()).tools}

    async def call(self, tool, **arguments):
        return Answer(await self.session.call_tool(tool, arguments))

    async def said(self, tool, **arguments):
        """The text of a call that must succeed."""
        answer = await self.call(tool, **arguments)
        assert not answer.failed, answer.text
        return answer.text

    async def refusal(self, tool, **arguments):
        """The text of a call that must fail."""
        answer = await self.call(tool, **arguments)
        assert answer.failed, answer.text
        return answer.text

    async def sandbox(self, **arguments):
        said = await self.said("create_sandbox", **{"template": "base", "memory_mb": 128, **arguments})
        return re.match(r"sb-[a-z0-9]{20}\n", said)[0].strip()


@contextlib.asynccontextmanager
async def over(transport):
    """A session as each generation begins one: the new one asks first whether the server needs none."""
    if NEW:
        async with Client(transport) as client:
            yield Agent(client)
    else:
        async with transport as streams, ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            yield Agent(session)


def over_stdio(*arguments):
    return over(stdio_client(StdioServerParameters(command="atoll", args=["mcp", *arguments], env=ENVIRONMENT)))


@contextlib.asynccontextmanager
async def over_http(address, key=KEY, **headers):
    headers = {"Authorization": f"Bearer {key}", **headers}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:
        async with over(streamable_http_client(address, http_client=client)) as agent:
            yield agent


@contextlib.contextmanager
def server(*arguments, env=None):
    """`atoll mcp --http` on a free port: its address."""
    command = ["atoll", "mcp", "--http", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, env=env or ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def rest(method, path, body=None, key=KEY):
    """Status and answer of Atoll's own API."""
    request = urllib.request.Request(URL + path, method=method, headers={"X-API-Key": key})
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer) if answer.status != 204 else None
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def status_of(sandbox):
    return rest("GET", f"/v1/sandboxes/{sandbox}")[1]["status"]
