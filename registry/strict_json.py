"""JSON that every parser reads alike, or none: what is ambiguous or a bomb is refused.

Python's parser takes NaN, duplicate keys, UTF-16, lone surrogates and any depth; Go's takes the last of two
equal keys and ignores case. Two clients that read one manifest differently see two images.
"""

import json
from collections.abc import Iterable

DEPTH_MAX = 32
NODES_MAX = 400_000
DIGITS_MAX = 20


def parse_object(body: bytes) -> dict[str, object]:
    """Read a JSON object (RFC 8259). Raises ValueError that says what is wrong, never anything else."""
    if body.count(b"[") + body.count(b"{") > NODES_MAX or body.count(b",") > 4 * NODES_MAX:
        raise ValueError("the JSON has too many parts")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the JSON is not UTF-8") from None
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise ValueError(f"the JSON is nested more than {DEPTH_MAX} deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(parsed, dict):
        raise ValueError("the JSON is not an object")
    _check(parsed)
    return parsed


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a JSON key stands twice in one object")
    return found


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number in the JSON is out of range")
    return value


def _int(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise ValueError("a number in the JSON is out of range")
    return int(text)


def _check(root: dict[str, object]) -> None:
    # Iterative: what it guards against is depth.
    nodes = 0
    level: list[object] = [root]
    for _depth in range(DEPTH_MAX + 1):
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                nodes += len(node)
                _check_texts(node)
                below.extend(node.values())
            elif isinstance(node, list):
                nodes += len(node)
                below.extend(node)
            elif isinstance(node, str):
                _check_texts((node,))
        if nodes > NODES_MAX:
            raise ValueError("the JSON has too many parts")
        if not below:
            return
        level = below
    raise ValueError(f"the JSON is nested more than {DEPTH_MAX} deep")


def _check_texts(texts: Iterable[str]) -> None:
    for text in texts:
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("a text in the JSON has half of a surrogate pair") from None
