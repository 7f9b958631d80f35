"""Settings: every key with its default, its bounds and its meaning. Where they come from: config_sources.py."""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from registry.addresses import TcpAddress, parse_address
from registry.media_types import MANIFESTS
from registry.quantities import Bytes, Count, Seconds

_PREFIX = re.compile(r"[A-Za-z0-9._~/-]*")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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


def _networks(value: object) -> object:
    """Addresses and networks, parsed. Raises ValueError naming the one that is neither."""
    texts = _texts(value)
    if not isinstance(texts, list | tuple):
        return texts
    found: list[object] = []
    for text in texts:
        try:
            # A number would be taken for an address: 1 for 0.0.0.1.
            found.append(text if isinstance(text, Network) else ipaddress.ip_network(str(text)))
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


class Settings(BaseModel):
    """Everything that can be configured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Before `listen`, whose check looks at it.
    allow_anonymous: bool = Field(
        default=False, description="Listen also where other machines reach it, though nobody is asked for a password."
    )
    listen: str = Field("127.0.0.1:5000", description="Where to listen: host:port, [v6]:port, :port or unix:/path.")
    data: Path = Field(Path("data"), description="The data directory. It is made if it does not exist.")
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
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged, and all above it."
    )
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or JSON for machines.")
    limits: Limits = Field(default_factory=lambda: Limits(), description="See below.")  # noqa: PLW0108  # mypy

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, text: str, known: ValidationInfo) -> str:
        address = parse_address(text)
        is_public = isinstance(address, TcpAddress) and not address.is_loopback
        # If allow_anonymous itself is wrong, what was meant is not known, and that is told already.
        if is_public and known.data.get("allow_anonymous") is False:
            raise ValueError(
                f"{text!r} is reached from other machines, and there is no authentication: everybody could push "
                "and delete. Listen on 127.0.0.1 or a unix socket behind a proxy that asks for passwords, or say "
                "allow_anonymous = true (PIERHEAD_ALLOW_ANONYMOUS=true, --allow-anonymous)"
            )
        return text

    @field_validator("data", mode="before")
    @classmethod
    def _check_data(cls, path: object) -> object:
        if not isinstance(path, str | Path):
            raise ValueError('expected the path of a directory as a text, such as "./data"')
        if str(Path(path)) == "." or "\0" in str(path):
            raise ValueError("expected the path of a directory of its own, such as ./data")
        if str(path).startswith("~"):
            raise ValueError("~ means a home directory to a shell only: write the whole path")
        return path

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

    @field_validator("manifest_types")
    @classmethod
    def _check_types(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for text in types:
            if not _MEDIA_TYPE.fullmatch(text):
                raise ValueError(f"{text!r} is not a media type in lower case, without parameters")
            if text in MANIFESTS:
                raise ValueError(f"{text} is taken anyway, and its content is checked: leave it out")
        return types

    def trusts(self, peer: str) -> bool:
        """Tell whether a peer's word about its client counts. Whoever reaches a unix socket was let in by its mode."""
        if peer == "unix":
            return True
        if not self.trusted_proxies:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.trusted_proxies)
