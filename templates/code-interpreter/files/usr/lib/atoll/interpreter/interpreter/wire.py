"""The lines that an execution is answered with: one JSON object each, `type` says what it is."""

import json
import math
import time
from typing import Any

#: How results call the mime types that they have a field for; the others are in `extra`, by mime type.
FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "application/vnd.atoll.data+json": "data",
    "application/vnd.atoll.chart+json": "chart",
}

Event = dict[str, Any]


def output(stream: str, text: str) -> Event:
    """`stream` is stdout or stderr."""
    return {"type": stream, "text": text, "timestamp": time.time_ns()}


def result(bundle: dict[str, Any], main: bool) -> Event | None:
    """What a cell ends with (`main`) or shows on its way, from its forms by mime type."""
    event: Event = {"type": "result"}
    extra = {}
    for mime, value in bundle.items():
        field = FIELDS.get(mime)
        if field is None:
            extra[mime] = value
        elif value is not None and value != {}:
            event[field] = unquoted(value) if field == "text" else value
    if extra:
        event["extra"] = extra
    if len(event) == 1:
        return None
    event["is_main_result"] = main
    return event


def unquoted(text: str) -> str:
    """A string's own text, where a language shows strings in quotes."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def error(name: str, value: str, traceback: str) -> Event:
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def executions(count: int) -> Event:
    return {"type": "number_of_executions", "execution_count": count}


KEEPALIVE: Event = {"type": "keepalive"}
END: Event = {"type": "end_of_execution"}


def line(event: Event) -> bytes:
    try:
        text = json.dumps(event, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(event))
    return text.encode() + b"\n"


def finite(value: Any) -> Any:
    """The same with null in the place of numbers that JSON has no word for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
