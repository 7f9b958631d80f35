"""Run as a program: starts servers by fork(2) from a process that has imported everything, to save time.

Each server is `pierhead serve` itself, in a session of its own. Lines of JSON come in, one answers each.
"""

import ctypes
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import registry.app
import registry.cli.main
import registry.server.processes  # imported once, for all servers
from tests.crash.steps import Control, Trace, Watch

_SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def main() -> None:
    """Serve the test until its end of the pipe is closed."""
    # Workers whose parent was killed become our children: so we know when the last of them is really gone.
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    running: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "start":
            answer: object = _start(command)
            running.add(int(str(answer)))
        elif command["do"] == "kill":
            answer = _kill(command["pid"])
            running.discard(command["pid"])
        else:
            answer = _await(command["pid"])
            running.discard(command["pid"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in running:
        _kill(pid)


def _start(command: dict[str, Any]) -> int:
    own_group, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(told)
        _become_server(command)
    os.close(told)
    os.read(own_group, 1)  # ends when it has a process group that can be waited for
    os.close(own_group)
    return pid


def _become_server(command: dict[str, Any]) -> NoReturn:
    code: object = 1
    try:
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, number)
        if command["control"]:
            watch = Watch(Path(command["data"]), Control(Path(command["control"])), Trace(Path(command["trace"])))
            watch.install()
            application: Any = registry.app.Registry
            application.__call__ = watch.answering(application.__call__)
        sys.argv = ["pierhead", *command["argv"]]
        runpy.run_module("registry", run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _kill(pid: int) -> list[int]:
    os.killpg(pid, signal.SIGKILL)
    return _await(pid)


def _await(pid: int) -> list[int]:
    """Wait until no process of the group is left; returns how each ended, as exit codes."""
    codes: list[int] = []
    while True:
        try:
            _pid, status = os.waitpid(-pid, 0)
        except ChildProcessError:
            return codes
        codes.append(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
