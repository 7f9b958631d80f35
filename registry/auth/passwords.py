"""Whether a password is the user's: bcrypt is slow on purpose, so how much of it runs at once is bounded."""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import bcrypt

from registry.auth.htpasswd import COST, Table
from registry.errors import TooManyRequests

THREADS = 1
"""Threads of a worker that compare. bcrypt uses a whole processor, which serving needs as well."""

WAITING_MAX = 20
"""Comparisons of a worker that run or wait: at COST, a few seconds of work."""

REMEMBERED_SECONDS = 60.0
"""How long the outcome of a comparison is remembered: clients with Basic send the password with every request."""

REMEMBERED_MAX = 10_000
RETRY_SECONDS = 1

BCRYPT_BYTES = 72
"""bcrypt looks at no more of a password (Provos and Mazières, section 3)."""

LENGTH_MIN = 8
"""NIST SP 800-63B-3, section 5.1.1.2."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class WeakPassword(ValueError):
    """The password can't be taken. One line that does not hold it."""


class Users(Protocol):
    """Where the table of users comes from."""

    def current(self) -> Table:
        """The table as it is now."""
        ...


def hash_password(user: str, password: str, *, cost: int = COST) -> str:
    """Hash a new password. Takes a moment. Raises WeakPassword."""
    if len(password) < LENGTH_MIN:
        raise WeakPassword(f"a password has at least {LENGTH_MIN} characters")
    if _CONTROL.search(password):
        raise WeakPassword("a password holds no control character: no client could send it")
    if len(encoded := _encode(password)) > BCRYPT_BYTES:
        raise WeakPassword(f"a password has at most {BCRYPT_BYTES} bytes: bcrypt does not look at more")
    if len(set(password)) == 1 or password.casefold() == user.casefold():
        raise WeakPassword("a password is neither the user's name nor one character repeated")
    return bcrypt.hashpw(encoded, bcrypt.gensalt(cost)).decode()


class Passwords:
    """Compares passwords with those of `users`.

    The answer to a wrong password and to an unknown user is the same and takes the same time, unless the user's hash
    has another cost than most. What is remembered is remembered together with the stored hash, so a change of the
    user's line counts at once.
    """

    def __init__(
        self,
        users: Users,
        *,
        threads: int = THREADS,
        waiting_max: int = WAITING_MAX,
        clock: Callable[[], float] = time.monotonic,
        compare: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
    ) -> None:
        self._users = users
        self._compare = compare
        self._waiting_max = waiting_max
        self._key = secrets.token_bytes(32)
        # Apart: guesses must not drive out the right ones.
        self._right = _Recent(REMEMBERED_MAX, REMEMBERED_SECONDS, clock)
        self._wrong = _Recent(REMEMBERED_MAX, REMEMBERED_SECONDS, clock)
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passwords")

    async def check(self, user: str, password: str) -> bool:
        """Tell whether this is the user's password. Raises TooManyRequests while too many others are compared."""
        table = self._users.current()
        stored = table.hashes.get(user)
        digest = self._digest(user, password, stored or "")
        if digest in self._right:
            return True
        if digest in self._wrong:
            return False
        task = self._running.get(digest)
        if task is None:
            self._refuse_if_full()
            task = asyncio.create_task(self._run(digest, password, stored, table.cost))
            self._running[digest] = task
            task.add_done_callback(lambda ended: self._end(digest, ended))
        # Others may wait for the same task: whoever leaves must not take it away from them.
        return await asyncio.shield(task)

    def fingerprint(self, user: str) -> str | None:
        """A text that changes with the user's password, None for an unknown user."""
        return self._users.current().fingerprint(user)

    async def close(self) -> None:
        """Let go of the threads. What waits is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, digest: bytes, password: str, stored: str | None, cost: int) -> bool:
        against = stored or f"$2b${cost:02}${'.' * 53}"
        loop = asyncio.get_running_loop()
        # More than BCRYPT_BYTES would raise; other programs that write the file cut as well.
        equal = await loop.run_in_executor(
            self._pool, self._compare, _encode(password)[:BCRYPT_BYTES], against.encode()
        )
        is_right = equal and stored is not None
        (self._right if is_right else self._wrong).add(digest)
        return is_right

    def _end(self, digest: bytes, task: asyncio.Task[bool]) -> None:
        self._running.pop(digest, None)
        if not task.cancelled():
            task.exception()  # whoever waited may have left, and asyncio would complain that nobody asked

    def _refuse_if_full(self) -> None:
        if len(self._running) >= self._waiting_max:
            raise TooManyRequests(
                f"{self._waiting_max} passwords are being compared, which is the limit: try again",
                headers=[("retry-after", str(RETRY_SECONDS))],
            )

    def _digest(self, user: str, password: str, stored: str) -> bytes:
        running = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (user, password, stored):
            encoded = _encode(part)
            running.update(len(encoded).to_bytes(8, "big"))
            running.update(encoded)
        return running.digest()


class _Recent:
    """Digests that were added within the last `seconds`, at most `count_max`: the oldest goes first."""

    def __init__(self, count_max: int, seconds: float, clock: Callable[[], float]) -> None:
        self._added: OrderedDict[bytes, float] = OrderedDict()
        self._count_max = count_max
        self._seconds = seconds
        self._clock = clock

    def add(self, digest: bytes) -> None:
        self._added[digest] = self._clock()
        self._added.move_to_end(digest)
        if len(self._added) > self._count_max:
            self._added.popitem(last=False)

    def __contains__(self, digest: bytes) -> bool:
        added = self._added.get(digest)
        return added is not None and self._clock() - added < self._seconds


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
