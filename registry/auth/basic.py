"""The header `Authorization: Basic` (RFC 7617), read strictly: it is the first thing that a stranger sends."""

import base64
import binascii
import re
from dataclasses import dataclass, field

USER_BYTES_MAX = 255
PASSWORD_BYTES_MAX = 16384
"""Room for what is sent in place of a password, such as the ID token of a CI system: as for one that is sent bare."""

ENCODED_BYTES_MAX = 4 * ((USER_BYTES_MAX + 1 + PASSWORD_BYTES_MAX + 2) // 3)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class BasicError(ValueError):
    """The header can't be what a client means: the answer is 401. The message repeats nothing of the header."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password as they were sent. Neither was checked."""

    user: str
    password: str = field(repr=False)


def parse_basic(value: str) -> Credentials | None:
    """Read the value of the header; None for an empty user with an empty password, which some clients send for nobody.

    The value is what stands after `Authorization:`, decoded in any way that keeps ASCII. Raises BasicError.
    """
    scheme, _, encoded = value.strip(" \t").partition(" ")
    if scheme.lower() != "basic":
        raise BasicError("the scheme is not Basic")
    user, colon, password = _decode(encoded.lstrip(" ")).partition(":")
    if not colon:
        raise BasicError("there is no colon between user and password")
    return check_credentials(user, password)


def check_credentials(user: str, password: str) -> Credentials | None:
    """The pair, None for an empty user with an empty password. Raises BasicError if nobody can have such a one."""
    if _CONTROL.search(user) or _CONTROL.search(password):
        raise BasicError("user or password holds a control character")
    if ":" in user:
        raise BasicError("a user's name holds no colon")
    if len(user.encode("utf-8", "surrogatepass")) > USER_BYTES_MAX:
        raise BasicError(f"the user's name is longer than {USER_BYTES_MAX} bytes")
    if len(password.encode("utf-8", "surrogatepass")) > PASSWORD_BYTES_MAX:
        raise BasicError(f"the password is longer than {PASSWORD_BYTES_MAX} bytes")
    return Credentials(user, password) if user or password else None


def _decode(encoded: str) -> str:
    if len(encoded) > ENCODED_BYTES_MAX:
        raise BasicError("user and password are too long")
    try:
        decoded = base64.b64decode(encoded.encode("ascii"), validate=True)
        # One text for one pair: bits after the last byte, and characters after the padding, are passed over else.
        if base64.b64encode(decoded).decode() != encoded:
            raise BasicError("user and password are not in Base64")
        return decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise BasicError("user and password are not UTF-8") from None
    except (binascii.Error, UnicodeEncodeError):
        raise BasicError("user and password are not in Base64") from None
