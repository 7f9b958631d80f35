"""Other registries, which may still have what this store has lost: asked by digest, and believed in nothing.

They are spoken to as every client does: distribution-spec end-2 and end-3, with the token protocol of distribution, or
Basic. Whoever calls compares what comes with the digest that was asked for.
"""

import base64
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import httpx

from registry import media_types
from storage.digest import Digest

TIMEOUT = httpx.Timeout(30.0, read=60.0)
MANIFEST_BYTES_MAX = 64 << 20
TOKEN_BYTES_MAX = 1 << 20
PIECE_BYTES = 1 << 20
REDIRECTS_MAX = 5

Kind = Literal["blobs", "manifests"]

_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')
_ACCEPT = ", ".join([*sorted(media_types.MANIFESTS), "*/*"])


class RemoteFailed(Exception):
    """Another registry has not given what it was asked for; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, for one registry and the token service that it names."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where another registry is, and who asks it."""

    url: str
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest as another registry gave it. Its bytes were not compared with any digest yet."""

    body: bytes
    media_type: str | None


class Remote:
    """One other registry. What it is asked for lies in a repository of the same name as here."""

    def __init__(self, url: str, client: httpx.AsyncClient, credentials: Credentials | None = None) -> None:
        self.url = url.rstrip("/")
        self._client = client
        self._credentials = credentials
        self._authorizations: dict[str, str] = {}

    async def has(self, repository: str, kind: Kind, digest: Digest) -> bool:
        """Tell whether it says that it has a blob or manifest. Raises RemoteFailed."""
        async with self._asking("HEAD", repository, kind, digest) as answer:
            if answer.status_code == 404:
                return False
            self._check(answer)
            return True

    async def manifest(self, repository: str, digest: Digest) -> FetchedManifest:
        """Read a manifest. Raises RemoteFailed."""
        async with self._asking("GET", repository, "manifests", digest) as answer:
            self._check(answer)
            body = await _read(answer, MANIFEST_BYTES_MAX)
            return FetchedManifest(body, answer.headers.get("content-type"))

    @asynccontextmanager
    async def blob(self, repository: str, digest: Digest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a blob, in pieces of at most PIECE_BYTES. Raises RemoteFailed."""
        async with self._asking("GET", repository, "blobs", digest) as answer:
            self._check(answer)
            yield answer.aiter_raw(PIECE_BYTES)

    @asynccontextmanager
    async def _asking(self, method: str, repository: str, kind: Kind, digest: Digest) -> AsyncIterator[httpx.Response]:
        url = f"{self.url}/v2/{repository}/{kind}/{digest}"
        try:
            answer = await self._send(method, url, repository)
            if answer.status_code == 401:
                challenge = answer.headers.get_list("www-authenticate")
                await answer.aclose()
                self._authorizations[repository] = await self._authorize(repository, challenge)
                answer = await self._send(method, url, repository)
            try:
                yield answer
            finally:
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteFailed(f"{self.url}: {str(error) or type(error).__name__}") from error

    async def _send(self, method: str, url: str, repository: str) -> httpx.Response:
        headers = {"accept": _ACCEPT, "accept-encoding": "identity"}
        if authorization := self._authorizations.get(repository):
            headers["authorization"] = authorization  # not sent on to another host by a redirect
        return await self._client.send(self._client.build_request(method, url, headers=headers), stream=True)

    async def _authorize(self, repository: str, challenges: list[str]) -> str:
        """What to send as Authorization (RFC 9110, 11.6.2), as the answer 401 has asked for it."""
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                return f"Bearer {await self._token(repository, dict(_PARAMETER.findall(rest)))}"
            if scheme.lower() == "basic" and self._credentials is not None:
                pair = f"{self._credentials.user}:{self._credentials.password}"
                return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
        raise RemoteFailed(f"{self.url}: it wants to know who asks: give a user, as in https://USER@host")

    async def _token(self, repository: str, asked: Mapping[str, str]) -> str:
        """Get a token that allows to pull, anonymously without credentials."""
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme != "https" and self.url.startswith("https:"):
            raise RemoteFailed(f"{self.url}: its token service {realm!r} is not reached by https")
        query = {"scope": f"repository:{repository}:pull"} | {k: v for k, v in asked.items() if k == "service"}
        credentials = self._credentials
        auth = None if credentials is None else httpx.BasicAuth(credentials.user, credentials.password)
        request = self._client.build_request("GET", httpx.URL(realm).copy_merge_params(query))
        answer = await self._client.send(request, auth=auth, stream=True)
        try:
            if answer.status_code != 200:
                raise RemoteFailed(f"{self.url}: its token service answers {answer.status_code}")
            text = await _read(answer, TOKEN_BYTES_MAX)
        finally:
            await answer.aclose()
        return _token_of(text, self.url)

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            raise RemoteFailed(f"{self.url}: it answers {answer.status_code}")


class Remotes:
    """Several registries, asked in their order."""

    def __init__(self, remotes: list[Remote]) -> None:
        self.all = remotes

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.all)

    async def find(self, repository: str, kind: Kind, digest: Digest) -> list[Remote]:
        """Those that say they have it. One that fails is passed over, unless all of them do: raises RemoteFailed."""
        found, failed = [], []
        for remote in self.all:
            try:
                if await remote.has(repository, kind, digest):
                    found.append(remote)
            except RemoteFailed as error:
                failed.append(error)
        if failed and len(failed) == len(self.all):
            raise failed[0]
        return found


@asynccontextmanager
async def opened(targets: list[Target], *, insecure: bool) -> AsyncIterator[Remotes]:
    """Speak to registries; with `insecure`, without verifying their certificates."""
    async with httpx.AsyncClient(
        timeout=TIMEOUT, verify=not insecure, follow_redirects=True, max_redirects=REDIRECTS_MAX
    ) as client:
        yield Remotes([Remote(target.url, client, target.credentials) for target in targets])


def parse_target(url: str, *, insecure: bool, password: str | None) -> Target:
    """Read the address of a registry, which may name a user, whose password is the one given.

    Plain http is spoken only with `insecure`. Raises ValueError saying what is wrong.
    """
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no address of a registry: expected such as https://registry.example:5000")
    if parts.scheme == "http" and not insecure:
        raise ValueError(f"{url!r} is reached without TLS: say --from-insecure if that is meant")
    if parts.password is not None:
        raise ValueError("everybody on this machine sees a password in an address: see --from-password-file")
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/").removesuffix("/v2")
    httpx.URL(address)
    if not parts.username:
        return Target(address)
    if password is None:
        raise ValueError(f"{url!r} names a user: give the password by --from-password-file")
    return Target(address, Credentials(parts.username, password))


async def _read(answer: httpx.Response, bytes_max: int) -> bytes:
    body = bytearray()
    async for piece in answer.aiter_raw(PIECE_BYTES):
        body += piece
        if len(body) > bytes_max:
            raise RemoteFailed(f"{answer.url.host}: the answer has more than {bytes_max} bytes")
    return bytes(body)


def _token_of(text: bytes, url: str) -> str:
    try:
        fields = httpx.Response(200, content=text).json()
        token = fields.get("token") or fields.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RemoteFailed(f"{url}: its token service gives no token")
    return token
