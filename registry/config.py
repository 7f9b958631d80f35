"""Settings: every key with its default, its bounds and its meaning. Where they come from: config_sources.py."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from registry.addresses import Network, is_public, is_within, parse_address, parse_network
from registry.media_types import MANIFESTS
from registry.quantities import Bytes, Count, Rate, Seconds
from registry.quota_rules import Quota, refuse_twice
from registry.stores import BucketPlace, parse_place
from registry.tag_rules import ImmutableTags, RetentionRule

_PREFIX = re.compile(r"[A-Za-z0-9._~/-]*")
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_REALM = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._~/%?=&-]*)?")
_SERVICE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")


def _texts(value: object) -> object:
    """A list as the environment has it: JSON, or texts with commas between them. Raises ValueError."""
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, str):
        raise ValueError('expected a list of texts, such as ["a", "b"]')
    if value.strip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("expected a JSON list, or texts separated by commas") from None
    return [text.strip() for text in value.split(",") if text.strip()]


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _networks(value: object) -> object:
    """Addresses and networks, parsed. Raises ValueError naming the one that is neither."""
    texts = _texts(value)
    if not isinstance(texts, list | tuple):
        return texts
    found: list[object] = []
    for text in texts:
        try:
            # A number would be taken for an address: 1 for 0.0.0.1.
            found.append(text if isinstance(text, Network) else parse_network(str(text)))
        except ValueError:
            raise ValueError(
                f"{text!r} is neither an address nor a network: expected such as 10.0.0.5 or 10.0.0.0/8"
            ) from None
    return found


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Limits(BaseModel):
    """What a client, a request or a store may take of this server."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    header_bytes_max: Bytes = Field(
        65536,
        ge=4096,
        le=1 << 20,
        description="Request line and headers together. podman sends ranges of 16 KiB and more.",
    )
    header_count_max: Count = Field(100, ge=10, le=10_000, description="Header lines of a request.")
    header_seconds: Seconds = Field(
        10.0, gt=0, description="From the first byte of a request to the end of its headers."
    )
    body_bytes_per_second_min: Bytes = Field(
        1024,
        ge=0,
        description="A client that sends its body more slowly than this, over body_stall_seconds, is cut off.",
    )
    body_stall_seconds: Seconds = Field(
        60.0, gt=0, description="Over which time the rate of a body is taken; also how long an answer may stay unread."
    )
    keep_alive_seconds: Seconds = Field(120.0, gt=0, description="How long an idle connection is kept open.")
    connections_max: Count = Field(2000, ge=1, description="Connections of a worker; more are answered with 503.")
    uploads_max: Count = Field(
        256, ge=1, description="Bodies of uploads that a worker receives at once; more are answered with 429."
    )
    manifest_bytes_max: Bytes = Field(
        4 << 20, ge=1024, le=64 << 20, description="A manifest. Most clients read no more than 4 MiB."
    )
    blob_bytes_max: Bytes | None = Field(None, ge=1, description="A blob; unset: any size.")
    tag_parameters_max: Count = Field(100, ge=10, le=1000, description="Tags that one push of a manifest may set.")
    upload_idle_seconds: Seconds = Field(
        3600.0, gt=0, description="After which an upload that nobody adds to is dropped."
    )
    upload_lifetime_seconds: Seconds = Field(86400.0, gt=0, description="After which an upload is dropped in any case.")
    upload_ended_seconds: Seconds = Field(
        3600.0,
        ge=0,
        description="How long a finished upload is remembered, for clients that repeat their last request.",
    )
    sweep_seconds: Seconds = Field(300.0, gt=0, description="Time between two looks for uploads to drop.")
    shutdown_seconds: Seconds = Field(30.0, ge=0, description="How long running requests may go on after SIGTERM.")


def _path_of_file(path: object) -> object:
    """The path of a file, as somebody wrote it. Raises ValueError."""
    if not isinstance(path, str | Path) or not str(path).strip() or "\0" in str(path):
        raise ValueError('expected the path of a file as a text, such as "/etc/pierhead/htpasswd"')
    if str(path).startswith("~"):
        raise ValueError("~ means a home directory to a shell only: write the whole path")
    return path


FilePath = Annotated[Path, BeforeValidator(_path_of_file)]


class Tls(BaseModel):
    """HTTPS: it is served, and nothing else, once there are a certificate and its key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: FilePath | None = Field(
        None, description="The server's certificate, and after it those of its issuers below the root (PEM)."
    )
    key: FilePath | None = Field(None, description="The key of the certificate (PEM), without a password.")
    client_ca: FilePath | None = Field(
        None, description="The CAs whose certificates clients may show (PEM, one after the other)."
    )
    client_certificates: Literal["off", "optional", "required"] | None = Field(
        None,
        description="Whether clients are asked for a certificate; unset: `optional` with a `client_ca`, else `off`.",
    )
    minimum: Literal["1.2", "1.3"] = Field("1.2", description="The oldest version of TLS that is spoken.")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for name, other in (("certificate", "key"), ("key", "certificate"), ("client_ca", "certificate")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise ValueError(f"tls.{name} is set and tls.{other} is not: both are needed")
        if self.clients != "off" and self.client_ca is None:
            raise ValueError(f'tls.client_certificates = "{self.clients}" needs tls.client_ca: set both')
        return self

    @property
    def is_on(self) -> bool:
        """Whether HTTPS is served."""
        return self.certificate is not None

    @property
    def clients(self) -> Literal["off", "optional", "required"]:
        """Whether clients are asked for a certificate, as it holds."""
        return self.client_certificates or ("off" if self.client_ca is None else "optional")


def _tables(value: object) -> object:
    """A list of tables, which the environment has as JSON. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("expected a JSON list of objects") from None
    if not isinstance(value, list | tuple):
        raise ValueError(
            "expected a list of tables: in the file [[immutable]], [[auth.oidc]] and the like, with two brackets"
        )
    return value


class Oidc(BaseModel):
    """An OpenID provider, such as that of a CI system, whose ID tokens are believed: `[[auth.oidc]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    audience: str
    preset: Literal["github", "gitlab", "kubernetes"] | None = None
    issuer: str | None = None
    jwks_file: FilePath | None = None
    claims: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]] = Field(default_factory=dict)
    identity_claim: str | None = None
    passed_claims: tuple[str, ...] | None = None


class TokenIssuer(BaseModel):
    """A token service of the kind that CNCF distribution has, whose tokens are believed: `[[auth.issuers]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    issuer: str
    service: str
    certificates: FilePath | None = None
    jwks_file: FilePath | None = None


class Auth(BaseModel):
    """Who is let in. With any of htpasswd, policy, oidc and issuers, everybody has to say who they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool | None = Field(
        None,
        description="Whether everybody has to say who they are; unset: if any of htpasswd, policy, oidc and issuers "
        "is set. With `true` alone, robots and client certificates are let in.",
    )
    htpasswd: FilePath | None = Field(
        None, description="Users and their passwords (bcrypt), as htpasswd -B and pierhead user write them."
    )
    policy: FilePath | None = Field(
        None,
        description="Who may do what, see policy.md; unset: users may do everything, robots what their tokens say.",
    )
    certificate_name: Literal["common_name", "dns", "email", "uri", "subject"] = Field(
        "common_name",
        description="What of a client's certificate is its name in policies: a name that it has exactly one of.",
    )
    url: str = Field(
        "",
        description="Where clients reach the registry, such as https://registry.example; unset: where each one says "
        "that it does.",
    )
    realm: str = Field(
        "",
        description="Where clients get their tokens, if that is an outside token service of `issuers`; unset: /token "
        "here. Then `service` is the name that it makes its tokens out to.",
    )
    service: str = Field("pierhead", description="The name that tokens are made out to. Each registry needs its own.")
    token_seconds: Seconds = Field(900.0, ge=60, le=86400, description="How long an access token is valid.")
    refresh_idle_seconds: Seconds = Field(
        90 * 86400.0, ge=3600, description="How long what docker login keeps in place of a password is valid unused."
    )
    key_rotation_seconds: Seconds = Field(
        30 * 86400.0, ge=4 * 86400, description="How old the key that signs tokens gets until there is a new one."
    )
    requests_per_second: float | None = Field(
        None, gt=0, description="How many requests one identity may make in the long run; unset: any number."
    )
    requests_burst: Count = Field(200, ge=1, le=1_000_000, description="How many of them may come at once.")
    oidc: Annotated[tuple[Oidc, ...], BeforeValidator(_tables)] = Field(
        (), description="CI systems and clusters whose ID tokens are believed, see trust-a-ci-system.md."
    )
    issuers: Annotated[tuple[TokenIssuer, ...], BeforeValidator(_tables)] = Field(
        (), description="Token services of the kind that distribution has, whose tokens are believed."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, text: str) -> str:
        if text and not _URL.fullmatch(text):
            raise ValueError("expected scheme, host and port without a path, such as https://registry.example:5000")
        return text

    @field_validator("realm")
    @classmethod
    def _check_realm(cls, text: str) -> str:
        # It stands in a quoted parameter of a header.
        if text and not _REALM.fullmatch(text):
            raise ValueError("expected an address such as https://tokens.example/auth")
        return text

    @field_validator("service")
    @classmethod
    def _check_service(cls, text: str) -> str:
        # It stands in a quoted parameter, where clients look for scheme names as well.
        if not _SERVICE.fullmatch(text) or re.search("basic|bearer", text, re.IGNORECASE):
            raise ValueError('expected letters, digits and . _ : -, without "basic" and "bearer"')
        return text

    @property
    def is_on(self) -> bool:
        """Whether everybody has to say who they are."""
        if self.enabled is not None:
            return self.enabled
        return self.htpasswd is not None or self.policy is not None or bool(self.oidc) or bool(self.issuers)


class Audit(BaseModel):
    """The audit trail: it is kept as soon as it has a place to go to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FilePath | None = Field(None, description="Where the trail is written; unset: to no file.")
    stdout: bool = Field(default=False, description="Whether each line goes to standard output as well.")
    key_file: FilePath | None = Field(
        None, description="A secret of 32 bytes or more; with it nobody else can write a trail that verifies."
    )
    required: bool = Field(
        default=True, description="Whether a request fails whose line can't be written; else that is only logged."
    )
    sync: bool = Field(
        default=False, description="Whether each line survives a power cut before a request is answered."
    )
    bytes_max: Bytes = Field(64 << 20, ge=65536, description="How large the file gets until another one is begun.")
    keep: Count | None = Field(None, ge=1, description="How many full files are kept; unset: all of them.")

    @property
    def is_on(self) -> bool:
        """Whether a trail is kept."""
        return self.file is not None or self.stdout


class Retention(BaseModel):
    """Which tags are dropped by and by: what no rule is about stays."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = Field(
        default=True, description="Whether the server carries the rules out; else only pierhead retention does."
    )
    delay_seconds: Seconds = Field(
        86400.0,
        ge=0,
        description="How long rules have to hold unchanged until the server drops anything by them: by then their plan "
        "could be seen.",
    )
    interval_seconds: Seconds = Field(3600.0, ge=1, description="Time between two runs.")
    pull_flush_seconds: Seconds = Field(
        600.0,
        ge=1,
        description="After which time counted pulls are written down. A worker that is killed loses those since then.",
    )
    rules: Annotated[tuple[RetentionRule, ...], BeforeValidator(_tables)] = Field(
        (), description="Which tags are kept, see tag-rules.md."
    )


class Scrub(BaseModel):
    """The scrub: every blob is read again in the background, slowly, to find damage in time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = Field(default=True, description="Whether blobs are read again in the background.")
    rate: Rate = Field(
        20 << 20,
        ge=65536,
        description="How many bytes a second are read, by all servers of the store together, such as 20 MiB/s.",
    )
    period_seconds: Seconds = Field(
        30 * 86400.0, gt=0, description="How often each blob is read, if the rate allows it."
    )


class Gc(BaseModel):
    """The garbage collection: what nothing leads to any more is taken while pushes go on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = Field(default=True, description="Whether garbage is collected in the background.")
    interval_seconds: Seconds = Field(
        6 * 3600.0, gt=0, description="Time from the end of a collection to the next, by any server of the store."
    )
    grace_seconds: Seconds = Field(
        86400.0, ge=0, description="What was pushed within that time is kept, whether anything leads to it or not."
    )
    trash_seconds: Seconds = Field(
        7 * 86400.0,
        ge=0,
        description="How long bytes stay that nothing leads to any more: so long pierhead gc undo works.",
    )
    log_seconds: Seconds = Field(90 * 86400.0, ge=0, description="How long it is remembered what was taken.")
    brake_share: float = Field(
        0.5,
        ge=0.01,
        le=1,
        description="A collection that would take a larger share of all manifests or blobs takes nothing.",
    )
    cpu_share: float = Field(
        0.1, ge=0.01, le=1, description="Which share of one processor a collection in the background may take."
    )


class Usage(BaseModel):
    """How what repositories hold is counted, where a quota covers them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recount_seconds: Seconds = Field(
        6 * 3600.0,
        ge=1,
        description="How old an exact count may get until there is a new one. What was deleted is counted anew at the "
        "next sweep (limits.sweep_seconds).",
    )
    warn_percent: Annotated[tuple[Count, ...], BeforeValidator(_texts)] = Field(
        (80, 90), description="From which shares of a quota on the log warns, in percent."
    )

    @field_validator("warn_percent")
    @classmethod
    def _check_percent(cls, shares: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 < share <= 100 for share in shares):
            raise ValueError("expected numbers from 1 to 100")
        return tuple(sorted(set(shares)))


class S3(BaseModel):
    """The bucket, where `data` names one. What is unset is left to boto3: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ..."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    endpoint: str | None = Field(None, description="Where the store is, such as http://10.0.0.9:8333.")
    region: str | None = Field(None, description="The region of the bucket.")
    path_style: bool | None = Field(
        None, description="Whether the bucket stands in the path, not in the name of the host; unset: boto3 chooses."
    )
    profile: str | None = Field(None, description="The profile of the AWS configuration to use.")
    access_key: str | None = Field(None, description="The access key; better in AWS_ACCESS_KEY_ID or a role.")
    secret_key: str | None = Field(
        None, repr=False, description="The secret key; better in AWS_SECRET_ACCESS_KEY or a role."
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(None, description="How the store encrypts what is written.")
    kms_key: str | None = Field(None, description="The key for aws:kms.")
    storage_class: str | None = Field(None, description="The storage class of blobs and of everything else committed.")
    checksums: Literal["when_required", "when_supported"] = Field(
        "when_required", description="Whether boto3 adds its checksums to every call, which some stores refuse."
    )
    ca_bundle: FilePath | None = Field(None, description="The CAs that the store's certificate is verified with (PEM).")
    connect_timeout_seconds: Seconds = Field(5.0, gt=0, description="How long a connection to the store may take.")
    read_timeout_seconds: Seconds = Field(30.0, gt=0, description="How long the store may take to answer.")
    copy_timeout_seconds: Seconds = Field(
        300.0, gt=0, description="How long the store may take to answer where it puts together or copies a large blob."
    )
    attempts_max: Count = Field(5, ge=1, le=20, description="How often a call is tried that may succeed another time.")
    threads_max: Count = Field(32, ge=1, le=256, description="Calls to the store at once, for each worker.")
    memory_bytes_max: Bytes = Field(
        128 << 20, ge=64 << 20, description="Memory of a worker for bodies on their way into the store."
    )
    commit: Literal["pointer", "copy"] = Field(
        "pointer",
        description="How a blob of more than 8 MiB becomes visible: at once by a `pointer`, and moved to its place "
        "afterwards; or by a `copy` that the push waits for.",
    )
    redirect: bool = Field(
        default=True, description="Whether a GET of a blob is redirected (307) to the store, by a presigned URL."
    )
    redirect_endpoint: str | None = Field(
        None,
        description="Where clients reach the store, such as https://store.example; unset: where this server does.",
    )
    redirect_networks: Annotated[tuple[Network, ...], BeforeValidator(_networks)] | None = Field(
        None,
        description="Addresses and networks of clients that are redirected; all others get the bytes from here. "
        "Unset: everybody is.",
    )
    redirect_seconds: Seconds = Field(
        1200.0, ge=1, le=7 * 86400, description="How long a presigned URL lasts, in whole seconds."
    )

    @field_validator("redirect_endpoint")
    @classmethod
    def _check_redirect_endpoint(cls, text: str | None) -> str | None:
        # Bucket and key follow it, and what a proxy takes off a path would break the signature.
        if text is not None and not _URL.fullmatch(text):
            raise ValueError("expected scheme, host and port without a path, such as https://store.example:9000")
        return text

    @field_validator("redirect_networks")
    @classmethod
    def _check_redirect_networks(cls, networks: tuple[Network, ...] | None) -> tuple[Network, ...] | None:
        if networks == ():
            raise ValueError(
                "no network at all: to redirect nobody say redirect = false, to redirect everybody leave it out"
            )
        return networks


class History(BaseModel):
    """Histories of tags: how far back they go, and with them what tags can go back to."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    keep_seconds: Seconds = Field(
        30 * 86400.0, ge=0, description="How long what a tag pointed at is kept after the tag has changed."
    )
    keep_last: Count = Field(
        10,
        ge=0,
        le=10_000,
        description="How many of a tag's last states are kept in any case, besides the present one, as long as the tag "
        "is there or was deleted within keep_seconds.",
    )
    references: bool = Field(
        default=True,
        description="Whether prod.-1 and prod.at-20261101T1200Z are earlier states of the tag prod, to be pulled only.",
    )


class Settings(BaseModel):
    """Everything that can be configured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Both before `listen`, whose check looks at them.
    auth: Auth = Field(default_factory=lambda: Auth(), description="See below.")  # noqa: PLW0108  # mypy
    allow_anonymous_push: bool = Field(
        default=False,
        description="Listen also where other machines reach it, though nobody has to say who they are: everybody may "
        "push and delete.",
    )
    listen: str = Field("127.0.0.1:5000", description="Where to listen: host:port, [v6]:port, :port or unix:/path.")
    data: Annotated[Path | BucketPlace, BeforeValidator(parse_place)] = Field(
        Path("data"),
        description="The data directory, which is made if it does not exist; or a bucket, as s3://bucket/prefix.",
    )
    workers: Count = Field(default_factory=cores, ge=1, le=256, description="Worker processes; unset: one per core.")
    prefix: str = Field("", description="A path that clients see before /v2/, such as /registry.")
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = Field(
        (), description="Addresses and networks of reverse proxies whose X-Forwarded-* headers are believed."
    )
    delete: bool = Field(default=True, description="Whether tags, manifests and blobs can be deleted through the API.")
    sparse: bool = Field(
        default=False, description="Take manifests that refer to content which is not in their repository."
    )
    manifest_types: Annotated[tuple[str, ...], BeforeValidator(_texts)] = Field(
        (),
        description="Further media types of manifests, which are taken as they are, without a look at their content.",
    )
    immutable: Annotated[tuple[ImmutableTags, ...], BeforeValidator(_tables)] = Field(
        (), description="Tags that can't be moved or deleted once they are set, see keep-tags-in-order.md."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged, and all above it."
    )
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or JSON for machines.")
    limits: Limits = Field(default_factory=lambda: Limits(), description="See below.")  # noqa: PLW0108  # mypy
    tls: Tls = Field(default_factory=lambda: Tls(), description="See below.")  # noqa: PLW0108  # mypy
    audit: Audit = Field(default_factory=lambda: Audit(), description="See below.")  # noqa: PLW0108  # mypy
    history: History = Field(default_factory=lambda: History(), description="See below.")  # noqa: PLW0108  # mypy
    gc: Gc = Field(default_factory=lambda: Gc(), description="See below.")  # noqa: PLW0108  # mypy
    scrub: Scrub = Field(default_factory=lambda: Scrub(), description="See below.")  # noqa: PLW0108  # mypy
    quota: Annotated[tuple[Quota, ...], BeforeValidator(_tables)] = Field(
        (), description="How many bytes the repositories of a prefix may hold together, see limit-what-teams-store.md."
    )
    usage: Usage = Field(default_factory=lambda: Usage(), description="See below.")  # noqa: PLW0108  # mypy
    retention: Retention = Field(default_factory=lambda: Retention(), description="See below.")  # noqa: PLW0108  # mypy
    s3: S3 = Field(default_factory=lambda: S3(), description="See below.")  # noqa: PLW0108  # mypy

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, text: str, known: ValidationInfo) -> str:
        address = parse_address(text)
        auth = known.data.get("auth")
        # If one of the two is itself wrong, what was meant is not known, and that is told already.
        is_open = isinstance(auth, Auth) and not auth.is_on and known.data.get("allow_anonymous_push") is False
        if is_public(address) and is_open:
            raise ValueError(
                f"{text!r} is reached from other machines, and nobody has to say who they are: everybody could push "
                "and delete. Set auth.htpasswd (pierhead serve --init-admin makes the file and a first user), listen "
                "on 127.0.0.1 or a unix socket, or say allow_anonymous_push = true "
                "(PIERHEAD_ALLOW_ANONYMOUS_PUSH=true, --allow-anonymous-push)"
            )
        return text

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, text: str) -> str:
        if not text:
            return text
        parts = text.split("/")
        if not _PREFIX.fullmatch(text):
            raise ValueError("expected letters, digits and . _ ~ - between slashes, such as /registry")
        if parts[0]:
            raise ValueError(f"expected a path that begins with a slash: /{text.rstrip('/')}")
        if not parts[-1]:
            shorter = text.rstrip("/")
            raise ValueError(f"expected a path that does not end in a slash: {shorter or 'leave it out for the root'}")
        if not all(parts[1:]) or "." in parts or ".." in parts:
            raise ValueError("clients and proxies rewrite // and /./ and /../: expected a path without them")
        if "v2" in parts:
            raise ValueError("/v2/ follows the prefix anyway: leave it out")
        return text

    @field_validator("quota")
    @classmethod
    def _check_quota(cls, quotas: tuple[Quota, ...]) -> tuple[Quota, ...]:
        refuse_twice(quotas)
        return quotas

    @field_validator("manifest_types")
    @classmethod
    def _check_types(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for text in types:
            if not _MEDIA_TYPE.fullmatch(text):
                raise ValueError(f"{text!r} is not a media type in lower case, without parameters")
            if text in MANIFESTS:
                raise ValueError(f"{text} is taken anyway, and its content is checked: leave it out")
        return types

    @property
    def sends_passwords_in_the_clear(self) -> bool:
        """Whether other machines log in without TLS, as far as can be told."""
        reached = is_public(parse_address(self.listen))
        return reached and self.auth.is_on and not self.tls.is_on and not self.trusted_proxies

    def trusts(self, peer: str) -> bool:
        """Tell whether a peer's word about its client counts. Whoever reaches a unix socket was let in by its mode."""
        if peer == "unix":
            return True
        return bool(self.trusted_proxies) and is_within(peer, self.trusted_proxies)
