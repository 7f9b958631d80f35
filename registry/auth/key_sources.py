"""Where the keys of outside issuers come from: files, which need no network, or the issuer itself."""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import structlog
from cryptography import x509

from registry.auth.jwks import KeySet, KeySetInvalid, PublicKey, certified_keys, parse_key_set
from registry.auth.jwts import TokenInvalid
from registry.strict_json import parse_object
from registry.watched import FileProblem, WatchedFile, read_regular
from registry.x509_failures import UNREADABLE

FILE_BYTES_MAX = 1 << 20
DOCUMENT_BYTES_MAX = 256 << 10
FRESH_SECONDS = 3600.0
"""How long fetched keys are used before they are fetched again."""
FETCH_SECONDS = 60.0
"""How often an issuer is asked at most while it does not answer, or tokens name keys that it does not have."""
FIRST_FETCH_SECONDS = 10.0
"""The same while there are no keys at all, so that no token can be verified."""
TIMEOUT_SECONDS = 10.0
DISCOVERY_PATH = "/.well-known/openid-configuration"

log = structlog.get_logger(__name__)


class IssuerConfigInvalid(ValueError):
    """The configuration of an issuer can't be used: one line that says which and why."""


class KeysUnavailable(TokenInvalid):
    """The token may be good, but the keys of its issuer can't be had at the moment."""


class KeySource(Protocol):
    """The keys of one issuer, as of now."""

    async def find(self, kid: str | None, algorithm: str) -> PublicKey:
        """The key that a token names. Raises TokenInvalid, KeysUnavailable."""
        ...


class FileKeys:
    """The keys in a file, read again when the file changes. A change that can't be read leaves the keys as they are.

    Raises IssuerConfigInvalid if the file can't be read to begin with.
    """

    def __init__(self, path: Path, read: Callable[[bytes], KeySet], *, clock: Callable[[], float]) -> None:
        self._parse = read
        self._file = WatchedFile(path, self._read, what="keys of an issuer", clock=clock)
        try:
            self._file.load()
        except KeySetInvalid as error:
            raise IssuerConfigInvalid(f"{path}: {error}") from None

    @property
    def generation(self) -> int:
        """Grows when the file has changed: what an earlier generation has verified is verified no more."""
        return self._file.generation

    def look(self) -> None:
        """Read the file again if it has changed."""
        self._file.current()

    async def find(self, kid: str | None, algorithm: str) -> PublicKey:
        """The key that a token names. Raises TokenInvalid."""
        found = self._file.current().find(kid, algorithm)
        if found is None:
            raise TokenInvalid("it is signed with a key that its issuer is not known to have")
        return found

    def _read(self, path: Path) -> KeySet:
        try:
            return self._parse(read_regular(path, FILE_BYTES_MAX))
        except FileProblem as error:
            raise KeySetInvalid(str(error)) from None


def read_certificates(body: bytes) -> tuple[x509.Certificate, ...]:
    """Read certificates in PEM. Raises KeySetInvalid."""
    try:
        return tuple(x509.load_pem_x509_certificates(body))
    except UNREADABLE:
        raise KeySetInvalid("expected certificates in PEM (-----BEGIN CERTIFICATE-----)") from None


def read_certified_keys(body: bytes) -> KeySet:
    """Read the keys of certificates in PEM. Raises KeySetInvalid, also if there is none to verify tokens with."""
    found = certified_keys(read_certificates(body))
    if not found.keys:
        raise KeySetInvalid("there is no certificate in it whose key tokens can be verified with (RSA, EC or Ed25519)")
    return found


class DiscoveredKeys:
    """The keys that an issuer publishes (OpenID Connect Discovery 1.0 section 4), fetched when they are needed.

    Once there are keys they stay in use, whatever happens to the issuer, until it answers with others.
    Raises IssuerConfigInvalid if its address is neither https nor this machine.
    """

    def __init__(self, issuer: str, *, clock: Callable[[], float]) -> None:
        check_url(issuer)
        self._issuer = issuer
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._fetched = 0.0
        self._tried: float | None = None
        self._tls: ssl.SSLContext | None = None

    async def find(self, kid: str | None, algorithm: str) -> PublicKey:
        """The key that a token names. Raises TokenInvalid, KeysUnavailable."""
        if self._keys is None or not 0 <= self._clock() - self._fetched < FRESH_SECONDS:
            await self._fetch()
        found = self._known(kid, algorithm)
        if found is None:
            # Its issuer may have begun to sign with a new key.
            await self._fetch()
            found = self._known(kid, algorithm)
        if found is not None:
            return found
        if self._keys is None:
            raise KeysUnavailable("the keys of its issuer can't be fetched")
        raise TokenInvalid("it is signed with a key that its issuer does not have")

    def _known(self, kid: str | None, algorithm: str) -> PublicKey | None:
        return None if self._keys is None else self._keys.find(kid, algorithm)

    async def _fetch(self) -> None:
        """Ask the issuer for its keys, unless that was done just now. All who need them wait for one answer."""
        if self._fetching is None or self._fetching.done():
            pause = FIRST_FETCH_SECONDS if self._keys is None else FETCH_SECONDS
            if self._tried is not None and 0 <= self._clock() - self._tried < pause:
                return
            self._tried = self._clock()
            self._fetching = asyncio.get_running_loop().create_task(self._ask_or_log())
        # A task of its own: somebody who hangs up while it runs must not take it away from the others.
        await asyncio.shield(self._fetching)

    async def _ask_or_log(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                keys = await self._ask()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            log.warning("the keys of an issuer can't be fetched", issuer=self._issuer, reason=reason)
        else:
            self._keys, self._fetched = keys, self._clock()

    async def _ask(self) -> KeySet:
        if self._tls is None:
            # Reading the certificates of all authorities takes a while.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        async with httpx.AsyncClient(
            verify=self._tls,
            timeout=TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=not is_loopback(self._issuer),  # the proxy of the environment has another loopback
        ) as client:
            document = parse_object(await _get(client, self._issuer.rstrip("/") + DISCOVERY_PATH))
            if document.get("issuer") != self._issuer:
                raise ValueError("its openid-configuration is that of another issuer")
            address = document.get("jwks_uri")
            if not isinstance(address, str):
                raise ValueError("its openid-configuration has no jwks_uri")
            check_url(address)
            if is_loopback(address) and not is_loopback(self._issuer):
                raise ValueError("its jwks_uri is an address of this machine")
            return parse_key_set(await _get(client, address))


def check_url(url: str) -> None:
    """Raises IssuerConfigInvalid unless the URL is https, or http to this very machine."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise IssuerConfigInvalid("its address is not a URL") from None
    if parts.query or parts.fragment or "@" in parts.netloc or not host or not url.isascii() or not url.isprintable():
        raise IssuerConfigInvalid("its address is not a plain URL, such as https://issuer.example")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(url)):
        raise IssuerConfigInvalid("its address has to begin with https://: whoever is on the way could send other keys")


def is_loopback(url: str) -> bool:
    """Tell whether the host of a URL is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _get(client: httpx.AsyncClient, url: str) -> bytes:
    """Fetch a small document. Raises httpx.HTTPError, ValueError."""
    # Compressed, a small answer could become a large one here.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    async with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code != 200:
            raise ValueError(f"it answers with status {answer.status_code}")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("its answer is compressed")
        body = bytearray()
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > DOCUMENT_BYTES_MAX:
                raise ValueError(f"its answer has more than {DOCUMENT_BYTES_MAX} bytes")
        return bytes(body)
