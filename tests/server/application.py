"""A served application in processes of its own: `python -m tests.server.application JSON`.

What it does is in the path of the request: `/pid`, `/die`, `/wait?<file>` (until the file exists), `/echo`.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from starlette.types import Receive, Scope, Send

from registry.config import Settings
from registry.server.processes import serve
from storage.errors import StorageUnavailable
from tests.server.edges import Call, echo


class Application:
    """Obeys its requests. `trouble` names what goes wrong at the start."""

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    async def start(self) -> None:
        """Fail if told to."""
        if self.trouble == "storage":
            raise StorageUnavailable("the data directory is read-only:\nmount it for writing")
        if self.trouble == "bug":
            raise ZeroDivisionError("a bug")
        if self.trouble.startswith("/") and Path(self.trouble).exists():
            os._exit(7)

    async def prove(self) -> None:
        """Start and close."""
        await self.start()
        await self.close()

    async def close(self) -> None:
        """Say that it was closed."""
        sys.stderr.write("closed\n")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        match scope["path"]:
            case "/pid":
                await call.answer(b"%d" % os.getpid())
            case "/die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "/wait":
                sys.stderr.write("waiting\n")
                sys.stderr.flush()
                while not Path(scope["query_string"].decode()).exists():  # noqa: ASYNC110 - another process makes it
                    await asyncio.sleep(0.01)
                await call.answer(b"done")
            case _:
                await echo(call)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    trouble = given.pop("trouble", "")
    sys.exit(serve(Settings.model_validate(given), lambda: Application(trouble)))
