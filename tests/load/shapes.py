"""Uploads in the shapes that clients give them, and in those that go wrong."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from storage.digest import Digest
from tests.load.calls import Body, Caller, chunks_of, code_of, either

PIECE_BYTES = 1 << 16
ZEROS = {"Content-Length": "0"}


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob on its way into a repository."""

    repository: str
    digest: Digest
    content: bytes

    @property
    def path(self) -> str:
        """Where it can be read."""
        return f"/v2/{self.repository}/blobs/{self.digest}"

    @property
    def uploads(self) -> str:
        """Where uploads begin."""
        return f"/v2/{self.repository}/blobs/uploads/"


Shape = Callable[[Caller, Blob, random.Random], None]
"""Uploads a blob. Raises Lost if the server ends in the middle."""


def docker(caller: Caller, blob: Blob, _chance: random.Random) -> None:
    """A stream of unknown length, and a look at the blob afterwards; a connection for each request."""
    if caller.send("HEAD", blob.path, expected=[200, 404], closing=True).status == 200:
        return
    session = _begin(caller, blob, closing=True)
    patched = caller.send("PATCH", session, chunks_of(blob.content), expected=[202], closing=True)
    assert patched.headers["range"] == f"0-{max(0, len(blob.content) - 1)}", patched
    _finish(caller, blob, patched.headers["location"], closing=True)
    assert caller.send("HEAD", blob.path, expected=[200]).headers["content-length"] == str(len(blob.content))


def podman(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """Asks whether this is a registry, and whether another digest is there; a connection for each request."""
    caller.send("GET", "/v2/", expected=[200], closing=True)
    uncompressed = f"/v2/{blob.repository}/blobs/{Digest.of(chance.randbytes(8))}"
    caller.send("HEAD", uncompressed, expected=[404], closing=True)
    session = _begin(caller, blob, closing=True)
    headers = {"Content-Type": "application/octet-stream"}
    _finish(caller, blob, _patch(caller, session, either(chance, blob.content), headers, closing=True), closing=True)


def crane(caller: Caller, blob: Blob, _chance: random.Random) -> None:
    """One stream of known length."""
    if caller.send("HEAD", blob.path, expected=[200, 404]).status == 404:
        _finish(caller, blob, _patch(caller, _begin(caller, blob), blob.content))


def containerd(caller: Caller, blob: Blob, _chance: random.Random) -> None:
    """Everything in the last request."""
    if caller.send("HEAD", blob.path, expected=[200, 404]).status == 404:
        _finish(caller, blob, _begin(caller, blob), blob.content)


def oras(caller: Caller, blob: Blob, _chance: random.Random) -> None:
    """As containerd, after a range was asked for."""
    caller.send("HEAD", blob.path, headers={"Range": "bytes=0-0"}, expected=[200, 404])
    _finish(caller, blob, _begin(caller, blob), blob.content)


def regctl(caller: Caller, blob: Blob, _chance: random.Random) -> None:
    """A mount from wherever it may be, which becomes a session if there is none."""
    query = f"mount={blob.digest}&digest-algorithm={blob.digest.algorithm}"
    begun = caller.send("POST", f"{blob.uploads}?{query}", headers=ZEROS, expected=[201, 202])
    if begun.status == 202:
        _finish(caller, blob, begun.headers["location"], blob.content)


def in_one_request(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """A single POST."""
    created = caller.send("POST", f"{blob.uploads}?digest={blob.digest}", either(chance, blob.content), expected=[201])
    assert created.headers["docker-content-digest"] == str(blob.digest)


def in_chunks(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """Chunks with their places; the last one comes with the request that ends the upload, or before it."""
    session, sent = _begin(caller, blob), 0
    last = chance.choice([0, len(blob.content) // 3])
    while sent < len(blob.content) - last:
        piece = blob.content[sent : min(len(blob.content) - last, sent + chance.randint(1, PIECE_BYTES * 4))]
        session = _patch(caller, session, piece, {"Content-Range": f"{sent}-{sent + len(piece) - 1}"})
        sent += len(piece)
    _finish(caller, blob, session, blob.content[sent:])


def mixed(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """A stream, then a chunk with its place, then the rest at the end."""
    first, second = sorted(chance.randint(0, len(blob.content)) for _ in range(2))
    session = _patch(caller, _begin(caller, blob), chunks_of(blob.content[:first]))
    if second > first:
        headers = {"Content-Range": f"{first}-{second - 1}"}
        session = _patch(caller, session, blob.content[first:second], headers)
    _finish(caller, blob, session, blob.content[second:])


def resumed(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """A stream whose connection breaks; what was kept is asked for, and the rest follows."""
    size = len(blob.content)
    if size < 2:
        crane(caller, blob, chance)
        return
    session = _begin(caller, blob)
    caller.break_off("PATCH", session, blob.content[: chance.randint(0, size)], announced=size + 1)
    answer = None
    while answer is None or answer.status == 416:
        # What was broken off may still be under way: then the session has a writer, or grows after we have asked.
        last = int(caller.send("GET", session, expected=[204]).headers["range"].removeprefix("0-"))
        for kept in (0, 1) if last == 0 else (last + 1,):  # 0-0 stands for none as well
            headers = {"Content-Range": f"{kept}-{size - 1}"} if kept < size else {}
            path = f"{session}?digest={blob.digest}"
            answer = caller.send("PUT", path, blob.content[kept:], headers, expected=[201, 416])
            if answer.status == 201:
                break


def refused_first(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """Under a digest that is another's; then as it should be."""
    session = _patch(caller, _begin(caller, blob), blob.content)
    wrong = Digest.of(chance.randbytes(16), blob.digest.algorithm)
    refused = caller.send("PUT", f"{session}?digest={wrong}", headers=ZEROS, expected=[400])
    assert code_of(refused) == "DIGEST_INVALID", refused
    caller.send("HEAD", f"/v2/{blob.repository}/blobs/{wrong}", expected=[404])
    containerd(caller, blob, chance)


def cancelled_first(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """An upload that is cancelled, and another one."""
    session = _patch(caller, _begin(caller, blob), blob.content[: len(blob.content) // 2])
    caller.send("DELETE", session, expected=[204])
    caller.send("GET", session, expected=[404])
    crane(caller, blob, chance)


def abandoned_first(caller: Caller, blob: Blob, chance: random.Random) -> None:
    """An upload that nobody goes on with, and another one."""
    _patch(caller, _begin(caller, blob), chunks_of(blob.content[: len(blob.content) // 2]))
    in_one_request(caller, blob, chance)


SHAPES: tuple[Shape, ...] = (
    docker,
    podman,
    crane,
    containerd,
    oras,
    regctl,
    in_one_request,
    in_chunks,
    mixed,
    resumed,
    refused_first,
    cancelled_first,
    abandoned_first,
)


def _begin(caller: Caller, blob: Blob, *, closing: bool = False) -> str:
    headers = {**ZEROS, "Content-Type": "application/json"}
    begun = caller.send("POST", blob.uploads, headers=headers, expected=[202], closing=closing)
    assert begun.headers["range"] == "0-0", begun
    return begun.headers["location"]


def _patch(
    caller: Caller, session: str, body: Body, headers: dict[str, str] | None = None, *, closing: bool = False
) -> str:
    return caller.send("PATCH", session, body, headers, expected=[202], closing=closing).headers["location"]


def _finish(caller: Caller, blob: Blob, session: str, rest: bytes = b"", *, closing: bool = False) -> None:
    path = f"{session}?digest={blob.digest}"
    created = caller.send("PUT", path, rest, expected=[201], closing=closing)
    assert created.headers["docker-content-digest"] == str(blob.digest), created
    assert created.headers["location"] == blob.path, created
