"""Whatever a client sends, an event is one short line of printable ASCII, and says what was cut."""

import json

from hypothesis import given
from hypothesis import strategies as st

from registry.audit import Event, EventKind
from registry.audit.chain import GENESIS, Mark, read_line, seal
from registry.audit.events import CUT, DETAIL_VALUE_MAX, FIELDS_MAX, LINE_BYTES_MAX, encode, limited
from tests.properties import repository_names

KEY = b"k" * 32
FAR = Mark(10**18 - 1, "f" * 64)
HOSTILE = ["\n", "\r\n", "\u2028", "\x1b[2J", '"', "\\", "\x7f", "\0", "\ud800", "\U0001f680", '"}\n{"seq":1}', "a"]

texts = st.text(max_size=80) | st.builds(
    lambda piece, count: piece * count, st.sampled_from(HOSTILE) | st.text(max_size=3), st.integers(0, 3000)
)
events = st.builds(
    Event,
    st.sampled_from(EventKind),
    actor=texts,
    address=texts,
    repository=texts | repository_names,
    reference=texts,
    old=texts,
    new=texts,
    detail=st.dictionaries(texts, texts, max_size=40),
)


@given(events)
def test_an_event_is_always_one_short_line_that_can_be_read_back(event: Event) -> None:
    line, mark = seal(event.fields(), FAR, time=4_102_444_800.0, key=KEY)

    assert len(line) <= LINE_BYTES_MAX
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    entry = read_line(line)
    assert entry is not None
    assert (entry.mark, entry.event) == (mark, event.kind.value)


@given(texts, st.integers(10, 100))
def test_a_text_is_kept_if_it_fits_and_else_as_much_of_it_as_does(text: str, bytes_max: int) -> None:
    kept = limited(text, bytes_max)

    size = len(encode({"": kept})) - len(encode({"": ""}))
    assert size <= bytes_max
    if kept != text:
        assert kept.endswith(CUT)
        assert text.startswith(kept.removesuffix(CUT))
        assert size > bytes_max - 12  # the longest escape of one character


@given(st.text(max_size=5))
def test_a_short_text_comes_back_as_it_was(text: str) -> None:
    fields = Event(EventKind.LOGIN_FAILED, actor=text, detail={text: text}).fields()

    read = json.loads(encode(fields))

    assert read.get("actor", "") == text
    assert read["detail"] == {text: text}


def test_every_field_has_room_for_what_is_valid_there() -> None:
    name, digest = "a" * 255, "sha512:" + "0" * 128
    event = Event(EventKind.TAG_MOVED, "user:" + "u" * 255, "::1", name, "t" * 128, digest, digest)

    fields = event.fields()

    assert fields == {
        "event": "tag-moved",
        **{field: getattr(event, field) for field in FIELDS_MAX},
    }


def test_particulars_that_are_too_many_are_counted() -> None:
    detail = Event(EventKind.PUSH, detail={f"name{n}": "v" * DETAIL_VALUE_MAX for n in range(5)}).fields()["detail"]

    assert isinstance(detail, dict)
    assert detail == {"name0": "v" * DETAIL_VALUE_MAX, CUT: "4"}


def test_what_is_empty_is_left_out_and_the_time_has_microseconds() -> None:
    line, _ = seal(Event(EventKind.STARTED).fields(), GENESIS, time=1_000_000.25, key=None)

    assert json.loads(line) == {
        "seq": 1,
        "previous": "0" * 64,
        "time": "1970-01-12T13:46:40.250000Z",
        "event": "started",
    }
