"""Globs over text that slashes divide: repositories' names, and what tokens claim.

`*` and `?` stay within one component; `**` is a component of its own and stands for one or more of them. A glob
becomes a regular expression that takes back no choice (atomic groups and possessive quantifiers), so that the time
to match is bounded by the length of the text times that of the glob, whatever both are.
"""

import re
from collections.abc import Iterable, Sequence

from registry.names import COMPONENT_BYTES_MAX, NAME_BYTES_MAX, NAME_COMPONENTS_MAX

_DEEP = "**"
_IN_NAMES = "[a-z0-9._-]"
_IN_TEXTS = "[^/]"

# How a component of a name may go on (registry/names.py), by what it ends in; only after a letter or digit it is whole.
_WHOLE = "letter"
_SEPARATORS = {_WHOLE: {".": ".", "_": "_", "-": "-"}, "_": {"_": "__"}, "-": {"-": "-"}}


class GlobError(ValueError):
    """A glob is malformed, or matches nothing that there can be. The message is one line and quotes the glob."""


class Globs:
    """Some globs, compiled together: text matches if one of them, and there may be none, matches all of it."""

    __slots__ = ("_expression", "texts")

    def __init__(self, texts: Sequence[str], *, characters: str, least: str) -> None:
        self.texts = tuple(texts)
        expressions = [_expression(text.split("/"), characters, least) for text in texts]
        # (?!) matches nothing; an empty expression would match everything.
        self._expression = re.compile("|".join(expressions) or "(?!)")

    @classmethod
    def of_names(cls, texts: Iterable[str]) -> "Globs":
        """Read globs over repositories' names. Raises GlobError, also for one that can match no name."""
        texts = tuple(texts)
        for text in texts:
            _check_name_glob(text)
        return cls(texts, characters=_IN_NAMES, least="++")

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> "Globs":
        """Read globs over any text; a component may be empty, as in `https://`. Raises GlobError."""
        texts = tuple(texts)
        for text in texts:
            if not text:
                raise GlobError("'' is an empty glob: write ** for any text")
            _check_deep(text)
        return cls(texts, characters=_IN_TEXTS, least="*+")

    def match(self, text: str) -> bool:
        """Tell whether one of the globs matches the whole text."""
        return self._expression.match(f"/{text}") is not None

    def __repr__(self) -> str:
        return f"Globs({', '.join(self.texts)})"


def has_wildcards(text: str) -> bool:
    """Tell whether a glob matches anything but itself."""
    return "*" in text or "?" in text


def _expression(components: Sequence[str], characters: str, least: str) -> str:
    """One glob as a regular expression over the text with a slash before it.

    Between two `**` stands a fixed number of components. The first place where they fit is the best, since what
    follows can be moved to the right only; hence each such run is atomic.
    """
    deep = f"(?:/{characters}{least})"
    found, gap, run = "", 0, ""
    for component in components:
        if component != _DEEP:
            run += "/" + _component(component, characters, least)
            continue
        if run:
            found += f"(?>{deep}{{{gap},}}?{run}(?=/))" if gap else run
            gap, run = 0, ""
        gap += 1
    if run:
        return f"{found}{deep}{{{gap},}}{run}\\Z" if gap else f"{found}{run}\\Z"
    return f"{found}{deep}{{{gap},}}+\\Z"


def _component(text: str, characters: str, least: str) -> str:
    if text == "*":
        return characters + least
    first, *others = ("".join(characters if c == "?" else re.escape(c) for c in piece) for piece in text.split("*"))
    if not others:
        return first
    *between, last = others
    # Here too the first place is the best, but for the last piece, which has to end the component.
    found = first + "".join(f"(?>{characters}*?{piece})" for piece in between if piece)
    return found + (f"(?>{characters}*{last}(?!{characters}))" if last else f"{characters}*+")


def _check_deep(text: str) -> None:
    for component in text.split("/"):
        if _DEEP in component and component != _DEEP:
            raise GlobError(
                f"{text!r}: ** stands for whole components, so it has to stand between slashes: "
                f"write * within {component!r}"
            )


def _check_name_glob(text: str) -> None:
    if not text:
        raise GlobError("'' is an empty glob: write ** for every repository")
    if len(text) > 2 * NAME_BYTES_MAX + 1:
        # Each character needs one in the name, but for stars: of those one may stand before each other character.
        raise GlobError(f"{text[:40] + '...'!r} is longer than any glob that matches a repository's name")
    if not all(text.split("/")):
        raise GlobError(f"{text!r}: a repository's name has no slash at its ends and no two in a row")
    for character in text:
        if not re.fullmatch(rf"{_IN_NAMES}|[*?/]", character):
            raise GlobError(
                f"{text!r}: {character!r} stands in no repository's name: "
                "expected lower-case letters, digits, . _ - / and the wildcards * ? **"
            )
    _check_deep(text)
    _check_sizes(text)


def _check_sizes(text: str) -> None:
    components = text.split("/")
    lengths = []
    for component in components:
        shortest = 1 if component == _DEEP else _shortest(component)
        if shortest is None:
            raise GlobError(
                f"{text!r}: no component of a repository's name can match {component!r}: they begin and end with "
                "a letter or digit, and hold one . or _, two _, or any number of - in a row"
            )
        if shortest > COMPONENT_BYTES_MAX:
            raise GlobError(
                f"{text!r}: a component of a repository's name has at most {COMPONENT_BYTES_MAX} characters"
            )
        lengths.append(shortest)
    if len(components) > NAME_COMPONENTS_MAX:
        raise GlobError(f"{text!r}: a repository's name has at most {NAME_COMPONENTS_MAX} components")
    if sum(lengths) + len(lengths) - 1 > NAME_BYTES_MAX:
        raise GlobError(f"{text!r}: a repository's name has at most {NAME_BYTES_MAX} characters")


def _shortest(glob: str) -> int | None:
    """Length of the shortest component of a name that matches, or None if none does.

    A walk, broadest first, over pairs of a place in the glob and what the component ends in so far.
    """
    reached = _beyond_stars(glob, {(0, "")})
    seen = set(reached)
    length = 0
    while reached:
        if (len(glob), _WHOLE) in reached:
            return length
        steps = {
            (place if glob[place] == "*" else place + 1, after)
            for place, before in reached
            if place < len(glob)
            for after in _after(before, glob[place])
        }
        reached = _beyond_stars(glob, steps) - seen
        seen |= reached
        length += 1
    return None


def _beyond_stars(glob: str, places: set[tuple[int, str]]) -> set[tuple[int, str]]:
    # No two stars stand in a row: a star may match nothing, once.
    return places | {(place + 1, ending) for place, ending in places if glob[place : place + 1] == "*"}


def _after(before: str, character: str) -> Iterable[str]:
    """What a component may end in once a character of the glob has been added to it."""
    separators = _SEPARATORS.get(before, {})
    if character in "*?":
        return (_WHOLE, *separators.values())
    if character in separators:
        return (separators[character],)
    return () if character in "._-" else (_WHOLE,)
