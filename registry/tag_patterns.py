"""Patterns over tags: globs as a shell has them, `v*`, `[0-9]*`, `?.?`, with `[!0-9]` for any other character."""

import fnmatch
import re
from collections.abc import Iterable

from registry.names import TAG_BYTES_MAX

_PATTERN = re.compile(r"(?:[A-Za-z0-9_.*?-]|\[!?[A-Za-z0-9_.-]+\])+")
_RANGE = re.compile(r"(.)-(.)")


class TagPatternError(ValueError):
    """A pattern is malformed, or can match no tag. The message is one line and quotes the pattern."""


class TagPatterns:
    """Some patterns, compiled together: a tag matches if one of them, and there may be none, matches all of it."""

    __slots__ = ("_expression", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        for text in self.texts:
            _check(text)
        # fnmatch makes expressions that take back no choice. (?!) matches nothing; an empty one would match everything.
        self._expression = re.compile("|".join(map(fnmatch.translate, self.texts)) or "(?!)")

    def match(self, tag: str) -> bool:
        """Tell whether one of the patterns matches the whole tag."""
        return self._expression.match(tag) is not None


def _check(text: str) -> None:
    if not text:
        raise TagPatternError("'' is an empty pattern: write * for every tag")
    if not _PATTERN.fullmatch(text):
        raise TagPatternError(
            f"{text[:80]!r} matches no tag: expected letters, digits, _ . - and the wildcards * ? [a-z] [!a-z]"
        )
    for listed in re.findall(r"\[!?([^\]]+)\]", text):
        for first, last in _RANGE.findall(listed):
            if first > last:
                raise TagPatternError(f"{text!r}: no character is within {first}-{last}")
    shortest = len(re.sub(r"\[[^\]]*\]", "x", text).replace("*", ""))
    if shortest > TAG_BYTES_MAX:
        raise TagPatternError(f"{text[:40] + '...'!r} matches no tag: they have at most {TAG_BYTES_MAX} characters")
