"""Upload sessions, whatever a client does to them in whatever order: the server is held to a model of bytes."""

import asyncio
from dataclasses import dataclass
from enum import Enum

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from storage.digest import SHA256, SHA512, Digest
from storage.memory import MemoryDriver
from tests.api.client import OTHER, REPOSITORY, Client, chunked, code, open_client

pieces = st.lists(st.binary(min_size=1, max_size=9), max_size=3)
some_pieces = st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=3)
algorithms = st.sampled_from([SHA256, SHA512])


class State(Enum):
    """What has become of a session."""

    OPEN = "open"
    DONE = "done"
    GONE = "gone"


@dataclass
class Session:
    """What a session has to be: its Location, its bytes, and as what it ended."""

    location: str
    content: bytes = b""
    state: State = State.OPEN
    digest: Digest | None = None

    @property
    def range(self) -> str:
        """The Range header that tells the truth."""
        return f"0-{max(0, len(self.content) - 1)}"


class Sessions(RuleBasedStateMachine):
    """A client with many sessions, and a registry that is restarted now and then."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.driver = MemoryDriver()
        self.client = self.runner.run(open_client(self.driver))
        self.known: list[Session] = []
        self.blobs: dict[Digest, bytes] = {}

    def teardown(self) -> None:
        """Let go of registry and loop."""
        self.runner.run(self.client.close())
        self.runner.close()

    @rule(target=sessions, hint=st.sampled_from(["", "?digest-algorithm=sha256", "?digest-algorithm=sha512"]))
    def begin(self, hint: str) -> Session:
        answer = self.runner.run(self.client.http.post(f"{REPOSITORY}/blobs/uploads/{hint}"))
        assert answer.status_code == 202
        assert answer.headers["range"] == "0-0"
        session = Session(answer.headers["location"])
        self.known.append(session)
        return session

    @rule(session=sessions, body=pieces, announced=st.booleans())
    def stream(self, session: Session, body: list[bytes], announced: bool) -> None:
        content = b"".join(body) if announced else chunked(*body)
        answer = self.runner.run(self.client.http.patch(session.location, content=content))
        if session.state is State.OPEN:
            session.content += b"".join(body)
            assert (answer.status_code, answer.headers["range"]) == (202, session.range)
        else:
            assert (answer.status_code, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")

    @rule(
        session=sessions, body=some_pieces, shift=st.integers(-4, 4), excess=st.integers(-3, 3), announced=st.booleans()
    )
    def chunk(self, session: Session, body: list[bytes], shift: int, excess: int, announced: bool) -> None:
        whole = b"".join(body)
        start, length = max(0, len(session.content) + shift), max(1, len(whole) + excess)
        answer = self.runner.run(
            self.client.http.patch(
                session.location,
                content=whole if announced else chunked(*body),
                headers={"content-range": f"{start}-{start + length - 1}"},
            )
        )
        if session.state is not State.OPEN:
            assert (answer.status_code, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        elif start != len(session.content):
            assert (answer.status_code, code(answer)) == (416, "BLOB_UPLOAD_INVALID")
            assert (answer.headers["range"], answer.headers["location"]) == (session.range, session.location)
        elif length != len(whole):
            assert (answer.status_code, code(answer)) == (400, "SIZE_INVALID")
        else:
            session.content += whole
            assert (answer.status_code, answer.headers["range"]) == (202, session.range)

    @rule(session=sessions, body=pieces, method=st.sampled_from(["PATCH", "PUT"]), ranged=st.booleans())
    def vanish(self, session: Session, body: list[bytes], method: str, ranged: bool) -> None:
        start = len(session.content)
        answer = self.runner.run(
            self.client.ask(
                method,
                session.location.encode(),
                query=f"digest={Digest.of(b'whatever')}".encode(),
                headers={"content-range": f"{start}-{start + 1000}"} if ranged else {},
                pieces=body,
                vanish=True,
            )
        )
        assert answer.status == (0 if session.state is State.OPEN else 404)
        if session.state is State.OPEN and not ranged:
            session.content += b"".join(body)

    @rule(session=sessions, body=pieces, algorithm=algorithms, announced=st.booleans(), ranged=st.booleans())
    def finish(self, session: Session, body: list[bytes], algorithm: str, announced: bool, ranged: bool) -> None:
        last = b"".join(body)
        digest = Digest.of(session.content + last, algorithm)
        start = len(session.content)
        answer = self.runner.run(
            self.client.http.put(
                session.location,
                params={"digest": str(digest)},
                content=last if announced else chunked(*body),
                headers={"content-range": f"{start}-{start + len(last) - 1}"} if ranged and last else {},
            )
        )
        if session.state is State.OPEN:
            assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, str(digest))
            self.blobs[digest] = session.content + last
            session.state, session.digest = State.DONE, digest
        elif session.digest == digest:
            assert answer.status_code == 201
        else:
            assert answer.status_code == 404

    @rule(session=sessions)
    def finish_again(self, session: Session) -> None:
        if session.digest is not None:
            answer = self.runner.run(self.client.http.put(session.location, params={"digest": str(session.digest)}))
            assert (answer.status_code, answer.headers["docker-content-digest"]) == (201, str(session.digest))

    @rule(session=sessions, body=pieces, algorithm=algorithms)
    def finish_with_another_digest(self, session: Session, body: list[bytes], algorithm: str) -> None:
        digest = Digest.of(session.content + b"".join(body) + b"!", algorithm)
        answer = self.runner.run(
            self.client.http.put(session.location, params={"digest": str(digest)}, content=chunked(*body))
        )
        if session.state is State.OPEN:
            assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")
            session.state = State.GONE
        else:
            assert answer.status_code == (201 if session.digest == digest else 404)

    @rule(session=sessions, text=st.sampled_from(["", "sha256:abc", "md5:" + "0" * 32]))
    def finish_with_no_digest(self, session: Session, text: str) -> None:
        answer = self.runner.run(self.client.http.put(session.location, params={"digest": text}, content=b"more"))
        assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")

    @rule(session=consumes(sessions))
    def cancel(self, session: Session) -> None:
        answer = self.runner.run(self.client.http.delete(session.location))
        if session.state is State.OPEN:
            assert answer.status_code == 204
            session.state = State.GONE
        else:
            assert answer.status_code == 404

    @rule(session=sessions, method=st.sampled_from(["GET", "PATCH", "PUT", "DELETE"]))
    def come_from_another_repository(self, session: Session, method: str) -> None:
        location = session.location.replace(REPOSITORY, OTHER)
        answer = self.runner.run(
            self.client.http.request(method, location, params={"digest": str(Digest.of(b""))}, content=b"more")
        )
        assert (answer.status_code, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")

    @rule()
    def restart(self) -> None:
        async def again() -> Client:
            await self.client.close()
            return await open_client(self.driver)

        self.client = self.runner.run(again())

    @rule(target=sessions, count=st.integers(0, 3))
    def begin_several(self, count: int) -> object:
        return multiple(*(self.begin("") for _ in range(count)))

    @invariant()
    def every_session_tells_the_truth(self) -> None:
        for session in self.known:
            answer = self.runner.run(self.client.http.get(session.location))
            if session.state is State.OPEN:
                assert (answer.status_code, answer.headers["range"]) == (204, session.range)
                assert answer.headers["location"] == session.location
            else:
                assert answer.status_code == 404

    @invariant()
    def every_blob_that_was_acknowledged_is_there_to_the_byte(self) -> None:
        for digest, content in self.blobs.items():
            answer = self.runner.run(self.client.http.get(f"{REPOSITORY}/blobs/{digest}"))
            assert (answer.status_code, answer.content) == (200, content)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
