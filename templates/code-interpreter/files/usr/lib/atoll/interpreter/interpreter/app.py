"""The HTTP side. Errors are plain texts, as clients of the code interpreter expect them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from . import languages, wire
from .contexts import HOME, Context, Contexts, NotFound, Overloaded, Refused
from .kernel import KernelFailed

MAX_BODY = 32 << 20
#: A stream is never silent for longer, so that one without a reader is noticed.
KEEPALIVE_SECONDS = 5


def application() -> Starlette:
    contexts = Contexts()

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        contexts.begin()
        yield
        await contexts.end()

    async def health(_request: Request) -> Response:
        return JSONResponse("OK")

    async def execute(request: Request) -> Response:
        asked = await body(request)
        code, identifier, language = asked.get("code"), asked.get("context_id"), asked.get("language")
        if not isinstance(code, str):
            raise HTTPException(400, "code: a text is needed")
        env = environment(asked.get("env_vars"))
        if identifier and language:
            raise HTTPException(400, "Only one of context_id or language can be provided")
        context = contexts.get(text(identifier, "context_id")) if identifier else contexts.default(
            text(language, "language") if language else languages.DEFAULT
        )
        return Execution(context, code, env)

    async def create(request: Request) -> Response:
        asked = await body(request)
        language = text(asked.get("language") or languages.DEFAULT, "language")
        context = await contexts.create(language, text(asked.get("cwd") or HOME, "cwd"))
        return JSONResponse(context.shown())

    async def listed(_request: Request) -> Response:
        return JSONResponse(contexts.list())

    async def restart(request: Request) -> Response:
        await contexts.restart(request.path_params["id"])
        return JSONResponse(None)

    async def delete(request: Request) -> Response:
        await contexts.delete(request.path_params["id"])
        return JSONResponse(None)

    def failing(status: int, words: str = "{}") -> Any:
        async def answer(_request: Request, problem: Exception) -> Response:
            return PlainTextResponse(words.format(problem), status)

        return answer

    async def refused(_request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        return PlainTextResponse(problem.detail, problem.status_code)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/health", health),
            Route("/execute", execute, methods=["POST"]),
            Route("/contexts", create, methods=["POST"]),
            Route("/contexts", listed),
            Route("/contexts/{id}", delete, methods=["DELETE"]),
            Route("/contexts/{id}/restart", restart, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: refused,
            NotFound: failing(404, "Context {} not found"),
            Refused: failing(400),
            Overloaded: failing(429),
            KernelFailed: failing(500),
        },
    )


async def body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; an empty body is an empty one."""
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY:
            raise HTTPException(413, f"the request is larger than {MAX_BODY >> 20} MiB")
    try:
        asked = json.loads(received or b"{}")
    except ValueError as problem:
        raise HTTPException(400, f"the request is not JSON: {problem}") from None
    if not isinstance(asked, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return asked


def text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise HTTPException(400, f"{field}: a text is needed")
    return value


def environment(value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HTTPException(400, "env_vars: an object of texts is needed")
    for name, content in value.items():
        if not name or "=" in name or "\0" in name:
            raise HTTPException(400, f"env_vars: {name!r} can't be the name of a variable")
        if not isinstance(content, str) or "\0" in content:
            raise HTTPException(400, f"env_vars: the value of {name} is not a text without zero bytes")
    return value


class Execution(Response):
    """The stream of one execution. A client that goes away ends the execution."""

    media_type = "application/x-ndjson"

    def __init__(self, context: Context, code: str, env: Mapping[str, str]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.context, self.code, self.env = context, code, env

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        spoke = asyncio.Event()

        async def emit(event: wire.Event) -> None:
            spoke.set()
            await send({"type": "http.response.body", "body": wire.line(event), "more_body": True})

        work = asyncio.create_task(self._run(emit))
        helpers = {asyncio.create_task(gone(receive)), asyncio.create_task(keep_alive(spoke, emit))}
        await asyncio.wait({work, *helpers}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, *helpers):
            task.cancel()
        await asyncio.wait({work, *helpers})
        if not work.cancelled():
            work.result()
            await send({"type": "http.response.body", "body": wire.line(wire.END)})

    async def _run(self, emit: Any) -> None:
        try:
            await self.context.run(self.code, self.env, emit)
        except Overloaded as problem:
            await emit(wire.error("Overloaded", str(problem), ""))


async def gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def keep_alive(spoke: asyncio.Event, emit: Any) -> None:
    while True:
        spoke.clear()
        try:
            async with asyncio.timeout(KEEPALIVE_SECONDS):
                await spoke.wait()
        except TimeoutError:
            await emit(wire.KEEPALIVE)
