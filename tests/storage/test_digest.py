"""Digests are taken in one spelling, and a running hash survives its process."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import digest as digests
from storage.digest import ALGORITHMS, SHA256, SHA512, Digest, RunningHash
from tests.properties import digest_texts

HEX = "0123456789abcdef"
algorithms = st.sampled_from([SHA256, SHA512])
chunks = st.lists(st.binary(max_size=300), max_size=8)


@given(digest_texts)
def test_a_well_formed_digest_comes_back_as_it_was(text: str) -> None:
    assert str(Digest.parse(text)) == text


@given(st.text(max_size=150) | st.from_regex(r"[a-z0-9+._-]{0,8}:[a-zA-Z0-9=_-]{0,140}", fullmatch=True))
def test_whatever_is_parsed_is_an_algorithm_that_is_taken_and_its_number_of_lower_case_digits(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except ValueError:
        return
    assert str(digest) == text
    assert len(digest.hex) == ALGORITHMS[digest.algorithm]
    assert set(digest.hex) <= set(HEX)


@given(digest_texts, st.data())
def test_no_single_change_of_a_digest_outside_of_its_hex_digits_is_taken(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    added = data.draw(st.characters(exclude_characters=HEX))

    for changed in (text[:place] + added + text[place:], text[:place] + text[place + 1 :] + added):
        with pytest.raises(ValueError, match="digest"):
            Digest.parse(changed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        f":{'a' * 64}",
        "a" * 64,
        f"sha256:{'A' * 64}",
        f"SHA256:{'a' * 64}",
        f"sha256:{'a' * 63}",
        f"sha256:{'a' * 65}",
        f"sha256:{'a' * 128}",
        f"sha512:{'a' * 64}",
        f"sha256:{'a' * 64}\n",
        f" sha256:{'a' * 64}",
        f"sha256:{'a' * 63} ",
        f"sha256::{'a' * 63}",
        f"sha256:{'a' * 64}:",
        f"sha256:{'a' * 63}\N{FULLWIDTH DIGIT ONE}",
        f"sha256:{'a' * 63}\N{ARABIC-INDIC DIGIT ONE}",
        f"sha384:{'a' * 96}",
        f"sha1:{'a' * 40}",
        f"md5:{'a' * 32}",
        f"blake3:{'a' * 64}",
        f"sha256+b64:{'a' * 64}",
    ],
)
def test_no_other_algorithm_length_case_or_spelling_is_taken(text: str) -> None:
    with pytest.raises(ValueError, match="lower-case hexadecimal digits"):
        Digest.parse(text)


@given(st.binary(max_size=1000), algorithms)
def test_the_digest_of_bytes_is_that_of_hashlib(body: bytes, algorithm: str) -> None:
    assert str(Digest.of(body, algorithm)) == f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


def test_a_digest_is_sha256_unless_asked_for() -> None:
    assert Digest.of(b"bytes") == Digest.of(b"bytes", SHA256)


def test_the_same_digits_under_two_algorithms_are_two_digests() -> None:
    assert Digest(SHA256, "a" * 64) != Digest(SHA512, "a" * 64)


@given(chunks, algorithms)
def test_a_running_hash_agrees_with_hashlib_whatever_the_chunks(pieces: Sequence[bytes], algorithm: str) -> None:
    running = RunningHash(algorithm)
    for piece in pieces:
        running.update(piece)

    assert running.digest() == Digest.of(b"".join(pieces), algorithm)
    assert running.count == sum(map(len, pieces))


@given(chunks, algorithms)
def test_a_running_hash_can_be_told_at_any_point_and_goes_on(pieces: Sequence[bytes], algorithm: str) -> None:
    running = RunningHash(algorithm)
    for place, piece in enumerate(pieces):
        assert running.digest() == Digest.of(b"".join(pieces[:place]), algorithm)
        running.update(piece)

    assert running.digest() == Digest.of(b"".join(pieces), algorithm)


@given(chunks, algorithms)
def test_a_running_hash_is_taken_up_from_its_state_after_any_chunk(pieces: Sequence[bytes], algorithm: str) -> None:
    running = RunningHash(algorithm)
    for piece in pieces:
        state = running.export()
        assert state is not None
        running = RunningHash.restore(algorithm, state)
        running.update(piece)

    assert running.digest() == Digest.of(b"".join(pieces), algorithm)
    assert running.count == sum(map(len, pieces))


def test_a_state_counts_bytes_beyond_four_gibibits() -> None:
    running = RunningHash(SHA256)
    piece = bytes(1 << 20)
    for _ in range(520):  # 2**32 bits are 512 MiB
        running.update(piece)

    restored = RunningHash.restore(SHA256, running.export() or b"")

    assert restored.count == 520 << 20
    assert restored.digest() == running.digest()


@given(st.binary(max_size=400), algorithms)
def test_bytes_that_are_no_state_are_refused_or_at_least_harmless(state: bytes, algorithm: str) -> None:
    try:
        running = RunningHash.restore(algorithm, state)
    except ValueError:
        return
    running.update(b"more")
    assert running.digest().algorithm == algorithm


@pytest.mark.parametrize("algorithm", [SHA256, SHA512])
def test_a_state_that_would_write_outside_of_its_block_is_refused(algorithm: str) -> None:
    running = RunningHash(algorithm)
    running.update(b"abc")
    state = bytearray(running.export() or b"")
    place = len(state) - 8  # `used`, the last but one number of four bytes
    assert state[place] == 3
    state[place : place + 4] = (1 << 20).to_bytes(4, "little")

    with pytest.raises(ValueError, match="contradicts itself"):
        RunningHash.restore(algorithm, bytes(state))


@pytest.mark.parametrize(("algorithm", "other"), [(SHA256, SHA512), (SHA512, SHA256)])
def test_the_state_of_one_algorithm_is_none_of_the_other(algorithm: str, other: str) -> None:
    with pytest.raises(ValueError, match="state"):
        RunningHash.restore(other, RunningHash(algorithm).export() or b"")


def test_without_openssl_a_hash_still_runs_and_says_that_it_has_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    state = RunningHash(SHA256).export() or b""
    monkeypatch.setattr(digests, "_EXPORTABLE", frozenset())
    running = RunningHash(SHA256)
    running.update(b"some ")
    running.update(b"bytes")

    assert running.export() is None
    assert (running.digest(), running.count) == (Digest.of(b"some bytes"), 10)
    with pytest.raises(ValueError, match="cannot be restored"):
        RunningHash.restore(SHA256, state)
