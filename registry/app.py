"""The composition root: with registry/operations.py, the only file that knows what is connected to what."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from registry.api.access import Access, Realm
from registry.api.auditing import Auditor
from registry.api.blobs import BlobEndpoints
from registry.api.errors import render
from registry.api.forwarding import client_address, forwarded_prefix
from registry.api.histories import HistoryEndpoints
from registry.api.listings import ListingEndpoints
from registry.api.manifests import ManifestEndpoints
from registry.api.redirects import Redirects
from registry.api.repositories import RepositoryEndpoints
from registry.api.requests import Request
from registry.api.responses import Response
from registry.api.routes import Endpoints, Router, Shape, Target, parse_path, routes
from registry.api.tokens import TokenEndpoint
from registry.api.uploads import UploadEndpoints
from registry.api.usage import UsageEndpoints
from registry.asgi import AnswerBroken, CannotStart
from registry.audit.chain import KeyInvalid, load_key
from registry.audit.events import EventKind
from registry.audit.trails import AuditUnavailable, Trail
from registry.audit.watching import FileWatch
from registry.auth.authenticator import Authenticator
from registry.auth.callers import everybody
from registry.auth.credentials import CredentialChecks
from registry.auth.htpasswd import HtpasswdError
from registry.auth.issuers import OidcConfig, OidcIssuers, TokenServiceConfig, TokenServices
from registry.auth.key_sources import IssuerConfigInvalid
from registry.auth.passwords import Passwords
from registry.auth.policy import PolicyError
from registry.auth.robots import Robots
from registry.auth.shared import Shared
from registry.auth.signing import KeyRing, Rotation, Signer, Verifier
from registry.auth.token_service import TokenService
from registry.background import BackgroundWork
from registry.blobs import Blobs
from registry.catalog import Catalog
from registry.certificates import CertificateProblem, name_of_certificate, server_context
from registry.config import Auth, Settings
from registry.earlier import EarlierStates
from registry.errors import NotThere
from registry.imports import HistoryUpkeep, Imports
from registry.janitor import Janitor, seldom
from registry.operations import Operations, new_id
from registry.query import Query
from registry.references import References
from registry.referrers import Referrers
from registry.scrubbing import Scrubber
from registry.stores import open_driver
from registry.tags import Tags
from registry.uploads import UploadLimits, Uploads
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt
from storage.layout import check_layout, is_unadopted
from storage.leases import LeaseStore
from storage.refresh_tokens import RefreshTokenStore
from storage.robots import RobotStore
from storage.signing_keys import SigningKeyStore
from storage.uploads import UploadStore

RETAINED = "what the rules of retention drop"
HISTORY_SWEEPS = 12
"""In so many sweeps the records of all histories are listed once: an hour, by default."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AuditParts:
    """What keeps the audit trail."""

    trail: Trail
    auditor: Auditor
    watch: FileWatch


@dataclass(frozen=True, slots=True)
class Gate:
    """What lets requests in, where everybody has to say who they are."""

    access: Access
    tokens: TokenEndpoint
    keys: KeyRing
    checks: CredentialChecks
    refresh_tokens: RefreshTokenStore


class Registry:
    """One registry as an ASGI application. Two of them may live in one process."""

    def __init__(
        self,
        driver: Driver,
        router: Router,
        background: Sequence[BackgroundWork],
        gate: Gate | None,
        audit: AuditParts | None,
        *,
        prefix: str,
        is_trusted: Callable[[str], bool],
    ) -> None:
        self._driver = driver
        self._router = router
        self._background = background
        self._gate = gate
        self._audit = audit
        self._prefix = prefix
        self._is_trusted = is_trusted
        self._api = f"{prefix}/v2/"
        self._token_path = f"{prefix}/token"

    async def start(self) -> None:
        """Open the store. Raises StorageError saying what to do if it can't be used."""
        await self._driver.start()
        await check_layout(self._driver)
        if self._gate is not None:
            await self._gate.keys.start()
        if self._audit is not None:
            await self._audit.trail.start()
            await self._audit.watch.start()
        for each in self._background:
            each.start()

    async def prove(self) -> None:
        """See that the store can be used, and tell what an operator should know: once, ahead of all workers.

        Raises as start does.
        """
        try:
            await self.start()
            if await is_unadopted(self._driver):
                log.warning(
                    "the catalog and the referrers lack what another registry has written",
                    remedy="run pierhead adopt on the data directory; serving may go on",
                )
            if self._audit is not None:
                await self._audit.auditor.write(EventKind.STARTED, actor="operator", address="")
        except AuditUnavailable as error:
            raise CannotStart("the audit trail can't be written: the log has the reason") from error
        finally:
            await self.close()

    async def close(self) -> None:
        """End background work and let go of the store."""
        for each in self._background:
            await each.close()
        if self._audit is not None:
            await self._audit.watch.close()
            await self._audit.trail.close()
        if self._gate is not None:
            await self._gate.checks.close()
        await self._driver.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        assert scope["type"] == "http", "only HTTP is served"
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:  # the one place that turns whatever happened into an answer
            client = client_address(scope, self._is_trusted)
            response = render(error, method=scope["method"], path=_path(scope), client=client)
        if scope["method"] == "HEAD":
            response = await response.without_body()
        try:
            await response.send(send)
        except Corrupt as error:
            raise AnswerBroken from error

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = _path(scope)
        if self._gate is not None and path == self._token_path:
            return await self._gate.tokens(self._request(scope, receive, Target(Shape.TOKEN)))
        if not path.startswith(self._api) and path != self._api[:-1]:
            raise NotThere(f"there is nothing at this address: the API is below {self._api}")
        target = parse_path(path[len(self._api) :])
        route = self._router.find(scope["method"], target)
        request = self._request(scope, receive, target)
        if self._gate is not None:
            request.caller = await self._gate.access.admit(request, route.action.value)
        elif self._audit is not None:
            request.caller = everybody(client_address(scope, self._is_trusted))
        return await route.endpoint(request)

    def _request(self, scope: Scope, receive: Receive, target: Target) -> Request:
        return Request(
            scope,
            receive,
            scope["method"],
            forwarded_prefix(scope, self._is_trusted) + self._prefix,
            target.name,
            target.tail,
            Query.parse(scope["query_string"]),
        )


def share(settings: Settings) -> Shared:
    """Make what the workers of one server have in common. Raises CannotStart if a file that it needs can't be used."""
    try:
        return Shared.of(settings.auth)
    except (HtpasswdError, PolicyError) as error:
        raise CannotStart(str(error)) from error


def build(settings: Settings, driver: Driver | None = None, shared: Shared | None = None) -> Registry:
    """Connect a registry to the store that the settings name, or to the given one.

    `shared` is what `share` has made for all workers of one server. Raises CannotStart if a file that the
    settings name can't be used.
    """
    limits = settings.limits
    driver = driver or open_driver(settings)
    shared = shared or share(settings)
    try:
        audit = _build_audit(settings, driver)
        auditor = Auditor(None, required=False) if audit is None else audit.auditor
        gate = _build_gate(settings, driver, shared, auditor) if settings.auth.is_on else None
    except IssuerConfigInvalid as error:
        raise CannotStart(str(error)) from error
    operations = Operations(settings, driver)
    stores, history, manifests = operations.stores, operations.history, operations.manifests
    uploads = Uploads(
        UploadStore(driver, clock=time.time),
        stores.blobs,
        stores.catalog,
        limits=UploadLimits(
            limits.uploads_max,
            limits.blob_bytes_max,
            limits.upload_idle_seconds,
            limits.upload_lifetime_seconds,
            limits.upload_ended_seconds,
        ),
        new_id=new_id,
        quotas=operations.quotas,
    )
    pulls = operations.pulls()
    endpoints = Endpoints(
        ListingEndpoints(
            Tags(stores.tags, stores.removals, stores.manifests, stores.catalog),
            Referrers(stores.referrers, stores.manifests),
            Catalog(stores.catalog),
        ),
        BlobEndpoints(
            Blobs(stores.blobs, stores.removals, References(stores.manifests), delete=settings.delete),
            auditor,
            _build_redirects(settings, driver),
        ),
        UploadEndpoints(uploads, auditor, chunk_bytes_min=driver.capabilities.append_bytes_min),
        ManifestEndpoints(
            manifests,
            EarlierStates(stores.tags, history, enabled=settings.history.references),
            auditor,
            manifest_bytes_max=limits.manifest_bytes_max,
            tags_max=limits.tag_parameters_max,
            pulls=pulls,
        ),
        HistoryEndpoints(operations.histories, auditor),
        RepositoryEndpoints(operations.repositories, auditor),
        UsageEndpoints(operations.quotas),
    )
    sweeps: dict[str, Callable[[], Awaitable[int]]] = {"uploads": uploads.expire}
    if (usage_sweep := operations.usage_sweep()) is not None:
        # Ahead of that of the removals, by which it is told what was removed.
        sweeps["usage of prefixes without a quota"] = usage_sweep.sweep
    sweeps |= {
        "removals": manifests.expire_removals,
        "stray bytes": partial(driver.sweep, older_than_seconds=2 * limits.upload_lifetime_seconds),
    }
    if gate is not None:
        sweeps["refresh tokens"] = gate.refresh_tokens.expire
    leases = LeaseStore(driver, new_id=new_id)
    upkeep = HistoryUpkeep(
        Imports(driver, history),
        history,
        clock=time.time,
        keep_seconds=settings.history.keep_seconds,
        last=settings.history.keep_last,
    )
    rest_seconds = HISTORY_SWEEPS * limits.sweep_seconds
    sweeps["records of histories"] = partial(seldom, leases, "history", upkeep.run, rest_seconds=rest_seconds)
    background: list[BackgroundWork | None] = [
        Janitor(leases, sweeps, sweep_seconds=limits.sweep_seconds),
        _build_scrubber(settings, driver, stores.blobs, leases, auditor),
        operations.background_collector(leases),
        pulls,
    ]
    if settings.retention.enabled:
        keeping = operations.retention(auditor.event)
        seconds = settings.retention.interval_seconds
        background.append(Janitor(leases, {RETAINED: keeping.sweep}, sweep_seconds=seconds, lease="retention"))
    return Registry(
        driver,
        Router(routes(endpoints)),
        [each for each in background if each is not None],
        gate,
        audit,
        prefix=settings.prefix,
        is_trusted=settings.trusts,
    )


def check_files(settings: Settings) -> None:
    """Read every file that the settings name, apart from the store. Raises CannotStart saying what is wrong."""
    try:
        share(settings)
        if settings.tls.is_on:
            server_context(settings.tls, now=datetime.now(UTC))
        if settings.audit.key_file is not None:
            load_key(settings.audit.key_file)
        _issuers(settings.auth)
    except (CertificateProblem, KeyInvalid, IssuerConfigInvalid) as error:
        raise CannotStart(str(error)) from error


def make_trail(settings: Settings, driver: Driver) -> Trail | None:
    """Make the audit trail that the settings ask for. Raises CannotStart if its key can't be used."""
    audit = settings.audit
    if not audit.is_on:
        return None
    try:
        key = None if audit.key_file is None else load_key(audit.key_file)
    except KeyInvalid as error:
        raise CannotStart(str(error)) from error
    return Trail(
        audit.file,
        stdout=audit.stdout,
        driver=driver,
        key=key,
        sync=audit.sync,
        bytes_max=audit.bytes_max,
        keep=audit.keep,
    )


def _build_audit(settings: Settings, driver: Driver) -> AuditParts | None:
    trail = make_trail(settings, driver)
    if trail is None:
        return None
    files = {
        settings.auth.policy: EventKind.POLICY_CHANGED,
        settings.auth.htpasswd: EventKind.USERS_CHANGED,
        settings.tls.certificate: EventKind.CERTIFICATE_CHANGED,
        settings.tls.client_ca: EventKind.CERTIFICATE_CHANGED,
        **{each.jwks_file: EventKind.CERTIFICATE_CHANGED for each in settings.auth.oidc},
        **{each.jwks_file: EventKind.CERTIFICATE_CHANGED for each in settings.auth.issuers},
        **{each.certificates: EventKind.CERTIFICATE_CHANGED for each in settings.auth.issuers},
    }
    watched = {path: kind for path, kind in files.items() if path is not None}
    auditor = Auditor(trail, required=settings.audit.required)
    return AuditParts(trail, auditor, FileWatch(trail, driver, watched))


def _build_scrubber(
    settings: Settings, driver: Driver, blobs: BlobStore, leases: LeaseStore, auditor: Auditor
) -> Scrubber | None:
    async def told(digest: Digest) -> None:
        try:
            await auditor.write(EventKind.BLOB_DAMAGED, actor="scrub", address="", detail={"digest": str(digest)})
        except AuditUnavailable as error:
            log.error("an event is not in the audit trail", event_kind=EventKind.BLOB_DAMAGED.value, reason=str(error))

    scrub = settings.scrub
    if not scrub.enabled:
        return None
    return Scrubber(driver, blobs, leases, rate=scrub.rate, period_seconds=scrub.period_seconds, told=told)


def _build_redirects(settings: Settings, driver: Driver) -> Redirects | None:
    s3 = settings.s3
    if not s3.redirect or not driver.capabilities.presigned_urls:
        return None
    return Redirects(s3.redirect_networks, seconds=int(s3.redirect_seconds), is_trusted=settings.trusts)


def _build_gate(settings: Settings, driver: Driver, shared: Shared, auditor: Auditor) -> Gate:
    auth, clock, service = settings.auth, time.time, settings.auth.service
    passwords = None if shared.users is None else Passwords(shared.users)
    policy = shared.policy
    name_of = partial(name_of_certificate, auth.certificate_name)
    oidc, token_services = _issuers(auth)
    checks = CredentialChecks(passwords, Robots(RobotStore(driver)), oidc, shared.throttle)
    ring = KeyRing(
        SigningKeyStore(driver), clock=clock, rotation=Rotation(rotate_seconds=int(auth.key_rotation_seconds))
    )
    refresh_tokens = RefreshTokenStore(driver, clock=clock, idle_seconds=auth.refresh_idle_seconds)
    authenticator = Authenticator(
        checks,
        Verifier(ring, issuer=service, service=service, clock=clock),
        token_services,
        policy=policy,
        name_of=name_of,
        rate=shared.rate,
    )
    tokens = TokenService(
        checks,
        Signer(ring, issuer=service, service=service, clock=clock),
        refresh_tokens,
        policy=policy,
        service=service,
        seconds=int(auth.token_seconds),
        rate=shared.rate,
    )
    realm = Realm(auth.url, settings.trusts, outside=auth.realm)
    return Gate(
        Access(authenticator, realm, auditor, service=service, is_trusted=settings.trusts),
        TokenEndpoint(tokens, realm, auditor, name=service, name_of=name_of, is_trusted=settings.trusts),
        ring,
        checks,
        refresh_tokens,
    )


def _issuers(auth: Auth) -> tuple[OidcIssuers, TokenServices]:
    """Make what verifies the tokens of others. Raises IssuerConfigInvalid."""
    return (
        OidcIssuers([OidcConfig(**each.model_dump()) for each in auth.oidc]),
        TokenServices([TokenServiceConfig(**each.model_dump()) for each in auth.issuers]),
    )


def _path(scope: Scope) -> str:
    raw = scope.get("raw_path")
    return str(scope["path"]) if raw is None else bytes(raw).decode("latin-1")
