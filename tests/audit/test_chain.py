"""Lines and head records are read back as they were written, and those of other keys are told apart."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.audit import Event, EventKind
from registry.audit.chain import GENESIS, KeyInvalid, Mark, load_key, mac_holds, read_head, read_line, seal, write_head

KEY, OTHER = b"k" * 32, b"o" * 32
MARK = Mark(7, "ab" * 32)


def test_each_line_carries_the_hash_of_the_one_before() -> None:
    first, mark = seal(Event(EventKind.PUSH).fields(), GENESIS, time=0, key=None)
    second, _ = seal(Event(EventKind.PUSH).fields(), mark, time=0, key=None)

    assert json.loads(second)["previous"] == hashlib.sha256(first).hexdigest() == mark.hash
    assert json.loads(second)["seq"] == 2


def test_a_mac_holds_for_its_line_and_its_key_only() -> None:
    line, _ = seal(Event(EventKind.PUSH, actor="user:alice").fields(), GENESIS, time=0, key=KEY)
    bare, _ = seal(Event(EventKind.PUSH, actor="user:alice").fields(), GENESIS, time=0, key=None)

    assert mac_holds(line, KEY)
    assert not mac_holds(line, OTHER)
    assert not mac_holds(line.replace(b"alice", b"mallo"), KEY)
    assert not mac_holds(bare, KEY)


@given(st.binary(max_size=5000))
def test_no_bytes_break_the_reading_of_a_line_or_a_head(body: bytes) -> None:
    entry = read_line(body + b"\n")
    assert entry is None or entry.mark.seq > 0
    assert read_head(body, KEY) is None
    assert not mac_holds(body, KEY)


@pytest.mark.parametrize(
    "line",
    [
        b'{"seq":true,"previous":"%s","event":"push"}\n' % (b"0" * 64),
        b'{"seq":0,"previous":"%s","event":"push"}\n' % (b"0" * 64),
        b'{"seq":1.0,"previous":"%s","event":"push"}\n' % (b"0" * 64),
        b'{"seq":1,"previous":"%s","event":"push"}\n' % (b"0" * 63),
        b'{"seq":1,"previous":"%s"}\n' % (b"0" * 64),
        b'{"seq":1,"previous":"%s","event":"push"}' % (b"0" * 64),
        b'{"a":' * 800 + b"\n",
        b"[]\n",
    ],
)
def test_what_is_no_line_of_a_trail_is_not_taken_for_one(line: bytes) -> None:
    assert read_line(line) is None


def test_a_head_is_read_back_and_with_a_key_only_one_of_that_key() -> None:
    assert read_head(write_head(MARK, None), None) == MARK
    assert read_head(write_head(MARK, KEY), KEY) == MARK
    assert read_head(write_head(MARK, KEY), None) == MARK
    assert read_head(write_head(MARK, OTHER), KEY) is None
    assert read_head(write_head(MARK, None), KEY) is None


def test_a_line_of_the_trail_is_no_head_and_a_head_is_no_line() -> None:
    line, _ = seal(Event(EventKind.PUSH).fields(), GENESIS, time=0, key=KEY)

    assert read_head(line, KEY) is None
    assert read_line(write_head(MARK, KEY)) is None


def test_a_key_file_is_read_without_white_space_at_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    path.chmod(0o600)

    assert load_key(path) == KEY


@pytest.mark.parametrize(
    ("body", "mode", "reason"),
    [(KEY, 0o640, "chmod 600"), (b"short", 0o600, "32 to 4096 bytes"), (b"x" * 5000, 0o600, "32 to 4096 bytes")],
)
def test_a_key_file_that_can_not_be_used_says_what_to_do(tmp_path: Path, body: bytes, mode: int, reason: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(body)
    path.chmod(mode)

    with pytest.raises(KeyInvalid, match=reason) as caught:
        load_key(path)
    assert body.decode() not in str(caught.value)
    with pytest.raises(KeyInvalid, match="can't be read"):
        load_key(tmp_path / "missing")
