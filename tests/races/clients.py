"""Clients that hammer a server from threads: keep-alive connections that are now and then opened anew."""

import http.client
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from registry.media_types import IMAGE
from storage.digest import Digest

RECONNECT_AFTER = 25
"""A connection belongs to one worker: who never opens another one never sees the others."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """One connection at a time, each to the next of the addresses."""

    def __init__(self, *addresses: str, reconnect_after: int = RECONNECT_AFTER) -> None:
        self._addresses = cycle(addresses)
        self._connection = http.client.HTTPConnection(next(self._addresses), timeout=60)
        self._reconnect_after = reconnect_after
        self._count = 0

    @property
    def port(self) -> int:
        """Our end of the connection; 0 if there is none at the moment."""
        return 0 if self._connection.sock is None else int(self._connection.sock.getsockname()[1])

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and read the answer whole."""
        self._count += 1
        if self._reconnect_after and self._count % self._reconnect_after == 0:
            self._connection.close()
            self._connection = http.client.HTTPConnection(next(self._addresses), timeout=60)
        self._connection.request(method, path, body, dict(headers or {}))
        response = self._connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def push_blob(self, repository: str, body: bytes) -> Digest:
        """Push a blob in one request."""
        digest = Digest.of(body)
        answer = self.send("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", body)
        assert answer.status == 201, answer
        return digest

    def put_manifest(self, repository: str, reference: object, body: bytes) -> Answer:
        """Push an OCI image manifest."""
        return self.send("PUT", f"/v2/{repository}/manifests/{reference}", body, {"Content-Type": IMAGE})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def image_manifest(
    config: Digest, config_size: int, layers: Sequence[tuple[Digest, int]] = (), *, note: str = ""
) -> bytes:
    """An OCI image manifest; `note` makes it differ from others."""
    layer_type = "application/vnd.oci.image.layer.v1.tar"
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": str(config),
                "size": config_size,
            },
            "layers": [{"mediaType": layer_type, "digest": str(digest), "size": size} for digest, size in layers],
            "annotations": {"org.example.note": note},
        }
    ).encode()


def in_threads(addresses: str | Sequence[str], count: int, work: Callable[[Client, int], None]) -> None:
    """Run `work(client, number)` in `count` threads at once; raises what the first failing one raised.

    Of several addresses, the threads begin at each of them in turn.
    """
    servers = [addresses] if isinstance(addresses, str) else list(addresses)
    failures: list[BaseException] = []
    gate = threading.Barrier(count)

    def run(number: int) -> None:
        turn = number % len(servers)
        client = Client(*servers[turn:], *servers[:turn])
        try:
            gate.wait(30)
            work(client, number)
        except BaseException as error:  # handed on below
            failures.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
