"""The policy in force: that of a file, read again when it changes."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from registry.auth.policy import Policy, PolicyError

LOOK_SECONDS = 1.0
"""How often it is looked whether the file has changed: a stat(2) by whoever asks next."""

SETTLED_SECONDS = 2.0
"""A file that was written within this time may be written again without a change of its times."""

_Signature = tuple[int, int, int, int]

log = structlog.get_logger(__name__)


class PolicyFile:
    """The policy of a file that is edited meanwhile. While the file is broken, the last policy holds."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._policy: Policy | None = None
        self._signature: _Signature | None = None
        self._is_settled = False
        self._complaint = ""
        self._looked = 0.0

    def load(self) -> Policy:
        """Read the file now. Raises PolicyError."""
        self._looked = self._clock()
        return self._read()

    def current(self) -> Policy:
        """The policy in force. Never raises, once `load` has succeeded: what is wrong with the file is logged."""
        now = self._clock()
        if self._policy is not None and 0 <= now - self._looked < LOOK_SECONDS:
            return self._policy
        self._looked = now
        try:
            return self._read()
        except PolicyError as error:
            if self._policy is None:
                raise
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("the policy file can't be used: the policy before it stays in force", reason=str(error))
            return self._policy

    def _read(self) -> Policy:
        signature, modified = self._look()
        if self._policy is not None and self._is_settled and signature is not None and signature == self._signature:
            return self._policy
        policy = Policy.load(self._path)
        if self._policy is not None and signature != self._signature:
            log.info("the policy file was read again", file=str(self._path), rules=len(policy.rules), pid=os.getpid())
        self._policy, self._signature, self._complaint = policy, signature, ""
        self._is_settled = abs(self._clock() - modified) > SETTLED_SECONDS
        return policy

    def _look(self) -> tuple[_Signature | None, float]:
        try:
            found = self._path.stat()
        except OSError:
            return None, 0.0
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino), found.st_mtime
