"""Limits against guessing and against haste, counted in memory that the parent and all workers share.

The tables are made before the workers are forked. Nothing is locked: of two workers that count at the same instant one
may be overlooked. Times are those of CLOCK_MONOTONIC, which is one for all processes of a machine and never set back.
"""

import hashlib
import ipaddress
import mmap
import secrets
import struct
import time
from collections.abc import Callable, Sequence

FREE_FAILURES = 10
"""Different wrong passwords of one user from one address that cost nothing: somebody tries to remember.

containerd, buildkit and helm send each one twice, and a push with a password that is no longer right repeats it with
every request; the same password again is no guess, and is not counted.
"""

FREE_FAILURES_OF_ADDRESS = 100
"""The same for one address, behind which there may be an office."""

WINDOW_SECONDS = 300.0
"""After that, failures that cost nothing are forgotten."""

BLOCK_SECONDS = 1.0
"""How long the first failure that is too much blocks. It is doubled with every further one."""

BLOCK_SECONDS_MAX = 900.0
FORGET_SECONDS = 2 * BLOCK_SECONDS_MAX
"""After that without a failure, one who was blocked begins anew."""

REMEMBERED = 8
"""How many different wrong passwords of one user from one address are told from further guesses."""

COUNT_MAX = 1 << 32

SLOTS = 16_384
WAYS = 8
"""In how many slots of the table a key may lie. When all are taken, the one that was used least lately is lost."""

SKEW_SECONDS = 1.0
"""By how much the time of another worker may be ahead of ours."""

IPV6_SITE_BITS = 64
"""What one customer of a provider has at least (RFC 6177): all its addresses count as one."""

_FAILURES = struct.Struct(f"<QddQ{REMEMBERED}Q")
_BUCKET = struct.Struct("<Qdd")


class Throttle:
    """Counts wrong passwords, and tells how long one has to wait for the next try.

    Failures count for the user at an address and for the address. A user as such is never blocked: anybody could do
    that to them.
    """

    def __init__(self, *, slots: int = SLOTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._of_users = _Failures(slots, self._secret, FREE_FAILURES)
        self._of_addresses = _Failures(slots, self._secret, FREE_FAILURES_OF_ADDRESS)

    def wait_seconds(self, user: str, address: str) -> float:
        """How long the next password of the user from the address has to wait; 0: it may be looked at.

        `address` is an IP address, or any text for a client that has none.
        """
        now, site = self._clock(), site_of(address)
        return max(self._of_users.wait_seconds(_pair(user, site), now), self._of_addresses.wait_seconds(site, now))

    def failed(self, user: str, address: str, password: str) -> None:
        """Count a wrong password, unless it is one of the last that were wrong. Nothing of it can be read back."""
        now, site = self._clock(), site_of(address)
        if self._of_users.count(_pair(user, site), now, self._mark(user, password)):
            self._of_addresses.count(site, now, 0)

    def succeeded(self, user: str, address: str) -> None:
        """Forget the user's failures at the address. Those of the address stay: its guesser may have an account."""
        self._of_users.forget(_pair(user, site_of(address)), self._clock())

    def _mark(self, user: str, password: str) -> int:
        text = f"{len(user)}:{user}{password}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, key=self._secret, digest_size=8).digest(), "big") or 1


class RateLimit:
    """A token bucket for each identity: `burst` requests at once, and `per_second` in the long run."""

    def __init__(
        self, per_second: float, burst: int, *, slots: int = SLOTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if per_second <= 0 or burst < 1:
            raise ValueError("a rate limit lets something through: per_second above 0, burst 1 or more")
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._table = _Table(slots, _BUCKET, secrets.token_bytes(32))

    def take(self, identity: str) -> float:
        """Take a request from the bucket and return 0; if there is none, how many seconds until there is one."""
        now = self._clock()
        fingerprint, at, fields, used = self._table.find(identity, now)
        level = self._burst
        if fields is not None:
            level = max(0.0, min(self._burst, fields[0] + max(0.0, now - used) * self._per_second))
        if level < 1:
            return (1 - level) / self._per_second
        self._table.write(at, fingerprint, now, level - 1)
        return 0.0


class _Failures:
    """A table of failures: for each key the time of the last, of the first, how many, and marks of the last few."""

    def __init__(self, slots: int, secret: bytes, free: int) -> None:
        self._table = _Table(slots, _FAILURES, secret)
        self._free = free

    def wait_seconds(self, key: str, now: float) -> float:
        _, _, fields, used = self._table.find(key, now)
        if fields is None or fields[1] <= self._free:
            return 0.0
        # Bounded before it is a power: two workers that write at once may leave any number.
        doublings = min(fields[1] - self._free - 1, 30)
        seconds = min(BLOCK_SECONDS * 2**doublings, BLOCK_SECONDS_MAX)
        return max(0.0, min(used + seconds - now, seconds))

    def count(self, key: str, now: float, mark: int) -> bool:
        """Count a failure, and tell whether it is another than the last ones with a mark."""
        fingerprint, at, fields, used = self._table.find(key, now)
        since, count, marks = now, 0, [0] * REMEMBERED
        if fields is not None and not self._is_past(fields, used, now):
            since, count, marks = fields[0], int(fields[1]), [int(each) for each in fields[2:]]
        if mark and mark in marks:
            return False
        marks[count % REMEMBERED] = mark
        self._table.write(at, fingerprint, now, since, min(count + 1, COUNT_MAX), *marks)
        return True

    def forget(self, key: str, now: float) -> None:
        self._table.forget(key, now)

    def _is_past(self, fields: Sequence[float], used: float, now: float) -> bool:
        since, count = fields[:2]
        return now - used >= FORGET_SECONDS if count > self._free else now - since >= WINDOW_SECONDS


class _Table:
    """Fixed-size slots in anonymous shared memory (mmap(2)), found by a keyed hash.

    Keys are chosen by strangers: without the secret they could choose such as lie in one place. A slot begins with the
    fingerprint of its key and the time of its last use, both 0 for an empty one.
    """

    def __init__(self, slots: int, layout: struct.Struct, secret: bytes) -> None:
        self._groups = max(1, slots // WAYS)
        self._layout = layout
        self._secret = secret
        self._memory = mmap.mmap(-1, self._groups * WAYS * layout.size)

    def find(self, key: str, now: float) -> tuple[int, int, Sequence[float] | None, float]:
        """The fingerprint of a key, where its slot is or would be, its fields if there are any, and when it was used.

        A time to come was left by workers that wrote at once: it would never pass, so the slot counts for nothing.
        """
        group, fingerprint = self._hash(key)
        oldest_at, oldest = group * WAYS * self._layout.size, float("inf")
        for way in range(WAYS):
            at = (group * WAYS + way) * self._layout.size
            found, used, *fields = self._layout.unpack_from(self._memory, at)
            if found == fingerprint and used <= now + SKEW_SECONDS:
                return fingerprint, at, fields, used
            if used < oldest:
                oldest_at, oldest = at, used
        return fingerprint, oldest_at, None, 0.0

    def write(self, at: int, fingerprint: int, used: float, *fields: float) -> None:
        """Fill a slot."""
        self._layout.pack_into(self._memory, at, fingerprint, used, *fields)

    def forget(self, key: str, now: float) -> None:
        """Empty the slot of a key."""
        _, at, fields, _ = self.find(key, now)
        if fields is not None:
            self._memory[at : at + self._layout.size] = bytes(self._layout.size)

    def _hash(self, key: str) -> tuple[int, int]:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).digest()
        return int.from_bytes(digest[:8], "big") % self._groups, int.from_bytes(digest[8:], "big") | 1


def _pair(user: str, site: str) -> str:
    # With its length, so that no user's name can make another address of it.
    return f"{len(site)}:{site}{user}"


def site_of(address: str) -> str:
    """What counts as one address: an IPv4 address, the network of an IPv6 address, or else the text itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed), IPV6_SITE_BITS), strict=False))
    return str(parsed)
