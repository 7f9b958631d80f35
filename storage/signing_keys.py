"""The keys that tokens are signed with, as they lie in storage: written once, and shared by every process."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from storage import keys
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused

RECORD_BYTES_MAX = 16384
LIST_PAGE = 1000
FIRST = "first"
"""The slot of the key that has none before it."""
REMEDY = "remove it, and give what lies there to the user that Pierhead runs as"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SigningKeyRecord:
    """One private key. `kid` is the RFC 7638 thumbprint of its public half; `created` in seconds since the epoch."""

    kid: str
    created: int
    private_pem: str = field(repr=False)

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps({"kid": self.kid, "created": self.created, "private": self.private_pem}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "SigningKeyRecord":
        """Read a stored record. Raises ValueError, which tells nothing of the key, if it is none."""
        try:
            fields = json.loads(text)
            record = cls(fields["kid"], fields["created"], fields["private"])
        except (ValueError, TypeError, KeyError, RecursionError):
            # json quotes what it can't read, and that may be half a private key.
            raise ValueError("it is no record of a signing key") from None
        texts = (record.kid, record.private_pem)
        if type(record.created) is not int or not all(isinstance(text, str) for text in texts):
            raise ValueError("a field is of another type")
        return record


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A record and the storage key that it lies at."""

    key: str
    record: SigningKeyRecord


class SigningKeyStore:
    """All signing keys.

    A key lies in a slot that is named after its predecessor. A slot is filled by create-if-absent and never written
    over, so of many processes that all find that a new key is due one makes it, and the others read it.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._told: set[str] = set()

    async def list(self) -> list[StoredKey]:
        """Every key that can be read, newest first. What can't be read is logged once, by its storage key."""
        found: list[StoredKey] = []
        for key in await self._slots():
            try:
                found.append(StoredKey(key, await self._read(key)))
            except (ValueError, Corrupt) as error:
                self.report(key, str(error))
            except StorageRefused:
                self.report(key, "it may not be read")
            except NotFound:
                continue  # deleted since it was listed
        return newest_first(found)

    async def add(self, record: SigningKeyRecord, *, after: str | None, attempt: int = 0) -> None:
        """Store the key that follows the one with the kid `after`, or the first one.

        `attempt` counts the slots with damaged keys that are passed over. Raises AlreadyExists if the slot is taken.
        """
        await self._driver.create(_slot(after, attempt), record.to_json())

    async def remove(self, stored: StoredKey) -> None:
        """Delete a key; deleting it again is fine."""
        await self._driver.delete(stored.key)

    def report(self, key: str, reason: str) -> None:
        """Log, once, that nothing can be signed or verified with what lies at a storage key."""
        if key not in self._told:
            self._told.add(key)
            log.error("damaged signing key", key=key, reason=reason, remedy=REMEDY)

    async def _slots(self) -> Sequence[str]:
        # One page: a key a month would fill it in 80 years.
        page = await self._driver.list(keys.SIGNING_KEYS, limit=LIST_PAGE)
        return [entry.key for entry in page.entries]

    async def _read(self, key: str) -> SigningKeyRecord:
        return SigningKeyRecord.from_json((await self._driver.get(key, bytes_max=RECORD_BYTES_MAX)).body)


def newest_first(stored: Iterable[StoredKey]) -> list[StoredKey]:
    """Every process puts the keys in the same order, also those that were made in one second."""
    return sorted(stored, key=lambda one: (one.record.created, one.record.kid), reverse=True)


def _slot(after: str | None, attempt: int) -> str:
    name = FIRST if after is None else after
    return keys.signing_key(f"{name}.{attempt}" if attempt else name)
