"""Tokens that are nothing but random: what they look like, and the hash that is kept of them.

`<prefix>_<id>_<secret><checksum>`: the prefix and the checksum let scanners find a token that has leaked, and tell a
mistyped one, without asking anybody. The id is public.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_CHARACTERS = 12
SECRET_CHARACTERS = 43
"""62**43 is more than 2**256."""

CHECKSUM_CHARACTERS = 6
"""62**6 is more than 2**32: CRC-32 of all before it, but for the prefix and its underscore."""

HASH = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(
    rf"([a-z]+)_([0-9A-Za-z]{{{ID_CHARACTERS},64}})_([0-9A-Za-z]{{{SECRET_CHARACTERS}}})"
    rf"([0-9A-Za-z]{{{CHECKSUM_CHARACTERS}}})"
)


@dataclass(frozen=True, slots=True)
class OpaqueToken:
    """A token that was just made, or that somebody has shown. `text` is the secret, whole."""

    id: str
    text: str = field(repr=False)

    @classmethod
    def create(cls, prefix: str, *, owner: str = "") -> "OpaqueToken":
        """Make a token; its id is `owner` (letters and digits) and random characters after it."""
        token_id = owner + _random(ID_CHARACTERS)
        body = f"{token_id}_{_random(SECRET_CHARACTERS)}"
        return cls(token_id, f"{prefix}_{body}{_checksum(body)}")

    @classmethod
    def parse(cls, prefix: str, text: str) -> "OpaqueToken | None":
        """Read a token; None if it is none, or mistyped."""
        matched = _TEXT.fullmatch(text)
        if matched is None or matched[1] != prefix or _checksum(f"{matched[2]}_{matched[3]}") != matched[4]:
            return None
        return cls(matched[2], text)

    @property
    def hash(self) -> str:
        """What is stored. SHA-256 is enough: a slow hash is for what can be guessed, and 256 random bits can't."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def has_hash(self, stored: str) -> bool:
        """Compare with a stored hash, in the same time whatever is equal."""
        return hmac.compare_digest(self.hash, stored)


def _random(characters: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(characters))


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
