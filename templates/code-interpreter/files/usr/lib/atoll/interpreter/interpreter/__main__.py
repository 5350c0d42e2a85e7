"""Serves until it is told to end. Ends with code 0 on SIGTERM; the start command begins it again on any other."""

import uvicorn

from .app import application

PORT = 49999

if __name__ == "__main__":
    uvicorn.run(
        application(),
        host="0.0.0.0",
        port=PORT,
        http="httptools",
        loop="asyncio",
        ws="none",
        log_level="warning",
        access_log=False,
        # Clients keep connections for a long time; a proxy in between shall never be the one that is surprised.
        timeout_keep_alive=600,
        timeout_graceful_shutdown=5,
    )
