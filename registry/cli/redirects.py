"""What is likely to be wrong with redirects to the store: told by `serve` and `check-config`."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from registry.addresses import TcpAddress, is_public, parse_address
from registry.config import Settings
from registry.stores import BucketPlace

REMEDY = "set s3.redirect_endpoint, or s3.redirect = false"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Where boto3 looks for the endpoint, in this order."""

_NEED_REDIRECT = frozenset({"redirect_endpoint", "redirect_networks", "redirect_seconds"})


def redirect_warnings(settings: Settings) -> Iterable[str]:
    """What an operator should know before clients find it out."""
    if not isinstance(settings.data, BucketPlace) or not settings.s3.redirect:
        why = "s3.redirect is false" if isinstance(settings.data, BucketPlace) else "the data are in no bucket"
        for name in sorted(_NEED_REDIRECT & settings.s3.model_fields_set):
            yield f"s3.{name} has no effect: {why}"
        return
    endpoint = _endpoint(settings)
    if _is_local(endpoint) and _has_others(settings):
        yield f"clients get blobs from {endpoint}, which only this machine reaches: {REMEDY}"
    if endpoint.startswith("http:") and (settings.tls.is_on or settings.auth.url.startswith("https:")):
        yield f"clients get blobs in the clear, from {endpoint}: {REMEDY}"


def _endpoint(settings: Settings) -> str:
    """Where clients are sent, as far as can be told; empty for AWS."""
    told = (settings.s3.redirect_endpoint, settings.s3.endpoint, *map(os.environ.get, ENDPOINT_VARIABLES))
    return next((url for url in told if url), "").lower()


def _is_local(endpoint: str) -> bool:
    try:
        return TcpAddress(urlsplit(endpoint).hostname or "", 0).is_loopback
    except ValueError:
        return False


def _has_others(settings: Settings) -> bool:
    """Whether clients on other machines may be redirected."""
    networks = settings.s3.redirect_networks
    if networks is not None and all(network.is_loopback for network in networks):
        return False
    address = parse_address(settings.listen)
    return is_public(address) or isinstance(address, Path) or bool(settings.trusted_proxies)
