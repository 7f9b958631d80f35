"""What is stored beside a manifest: its media type, if its bytes do not tell it, and its line among the referrers."""

from registry.collector.graph import read_known
from registry.collector.rules import CollectorStores
from registry.referrers import describe
from storage import keys
from storage.digest import Digest


async def put_sidecars(stores: CollectorStores, repository: str, digest: Digest, body: bytes, *, kind: str) -> None:
    """Write them again, ahead of the link to the manifest. `kind` is its media type; empty if none was stored."""
    if kind:
        await stores.driver.put(keys.media_type(repository, digest), kind.encode())
    document = read_known(body)
    if document is not None and document.subject is not None:
        referrer = describe(digest, document, size=len(body))
        await stores.referrers.put(repository, document.subject.digest, referrer)
