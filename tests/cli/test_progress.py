"""What a bar tells of speed and time left."""

from registry.cli.progress import Speed
from registry.cli.scanning import format_bytes
from registry.scan import Tally
from tests.stores import Clock


def test_speed_and_time_left_are_those_of_the_stage() -> None:
    clock, tally = Clock(), Tally("blobs", 0.0)
    tally.counts["bytes hashed"] = 1 << 30
    speed = Speed(clock=clock)
    assert speed.text(tally, format_bytes) == ""

    clock.now += 10
    tally.counts["bytes hashed"] += 50 << 20
    tally.fraction = 0.25

    assert speed.text(tally, format_bytes) == "5 MiB/s, about 30 s left"


def test_a_new_stage_begins_anew() -> None:
    clock, tally = Clock(), Tally("blobs", 0.5)
    speed = Speed(clock=clock)
    speed.text(tally, format_bytes)
    clock.now += 600
    assert speed.text(tally, format_bytes) == "about 10 min left"

    tally.enter("indexes")

    assert speed.text(tally, format_bytes) == ""
    clock.now += 5
    assert speed.text(tally, format_bytes) == ""


def test_hours_are_told_as_hours() -> None:
    clock, tally = Clock(), Tally("blobs", 0.5)
    speed = Speed(clock=clock)
    speed.text(tally, format_bytes)
    clock.now += 3 * 3600

    assert speed.text(tally, format_bytes) == "about 3 h left"
