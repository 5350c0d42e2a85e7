"""Output that comes in pieces, put together to lines: printing one is several writes, and what a busy machine sends apart
would arrive apart."""

from .kernel import Emit
from .wire import Event

#: How long the rest of a line is waited for.
REST_SECONDS = 0.02
#: Characters that are held back at most.
MOST = 64 * 1024
STREAMS = ("stdout", "stderr")


class Lines:
    """Passes events on in their order. The end of a stream's text is held until its line ends, or something else comes."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.held: Event | None = None

    async def take(self, event: Event) -> None:
        if self.held and event["type"] == self.held["type"]:
            event = self.held | {"text": self.held["text"] + event["text"]}
            self.held = None
        await self.flush()
        if event["type"] in STREAMS and not event["text"].endswith("\n") and len(event["text"]) < MOST:
            self.held = event
        else:
            await self.emit(event)

    async def flush(self) -> None:
        held, self.held = self.held, None
        if held:
            await self.emit(held)
