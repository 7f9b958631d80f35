"""What an issuer says of a workload, as text: flattened, and compared with what is asked of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.auth.globs import Globs
from registry.auth.jwts import TokenInvalid

TEXT_LENGTH_MAX = 1024
CLAIMS_MAX = 200
PASSED_MAX = 32
PASSED_LENGTH_MAX = 256

_OF_THE_TOKEN = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "c_hash", "auth_time"})
"""Says something of the token and nothing of whom it is for."""


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What has to be claimed: each of these, and for each one of its globs has to match."""

    globs: Mapping[str, Globs] = field(default_factory=dict)

    def check(self, claims: Mapping[str, str]) -> None:
        """Raises TokenInvalid naming the first claim that is missing or another."""
        for name, globs in self.globs.items():
            if name not in claims or not globs.match(claims[name]):
                raise TokenInvalid(f"it does not claim the {name} that is asked for")


def flatten(claims: Mapping[str, object]) -> dict[str, str]:
    """Every claim that is a text, a whole number or a truth value, by its name; nested ones as `outer.inner`.

    Lists and fractions are left out, and so is text that is long or could not be printed: no rule holds for them.
    Raises TokenInvalid if two claims would get one name, or there are too many.
    """
    found: dict[str, str] = {}
    level: list[tuple[str, object]] = list(claims.items())
    while level:
        if len(level) + len(found) > CLAIMS_MAX:
            raise TokenInvalid(f"it has more than {CLAIMS_MAX} claims")
        below: list[tuple[str, object]] = []
        for name, value in level:
            if isinstance(value, dict):
                below.extend((f"{name}.{inner}", what) for inner, what in value.items())
            elif (text := _text(value)) is not None:
                if name in found:
                    raise TokenInvalid("two of its claims have one name")
                found[name] = text
        level = below
    return found


def select(claims: Mapping[str, str], wanted: Mapping[str, str] | None) -> dict[str, str]:
    """The claims to pass on: `wanted` (name to claim), or all that are short and say something of the bearer."""
    if wanted is not None:
        return {name: claims[claim] for name, claim in wanted.items() if claim in claims}
    found = {
        name: text for name, text in claims.items() if name not in _OF_THE_TOKEN and len(text) <= PASSED_LENGTH_MAX
    }
    return dict(sorted(found.items())[:PASSED_MAX])


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= TEXT_LENGTH_MAX and value.isprintable():
        return value
    return None
