"""What is left of things that are gone: dropped, and looked at again where somebody may just have come back to it."""

from functools import partial

from registry.repair.steps import Step, Tools
from storage import keys
from storage.digest import Digest
from storage.errors import NotFound, StorageRefused
from storage.places import Place

MEDIA_TYPE_BYTES_MAX = 4096


class Leftovers:
    """Markers, media types, tags that were deleted, uploads whose records are damaged."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def marker(self, place: Place) -> Step | None:
        """A marker of a copy that was replaced, or was just found to be whole."""
        if place.digest is None:
            return None
        return Step("the marker was removed", partial(self._tools.stores.blobs.acquit, place.digest))

    def media_type(self, place: Place) -> Step | None:
        """The media type of a manifest that is gone."""
        if place.digest is None:
            return None
        return Step("the media type was removed", partial(self._drop_media_type, place.repository, place.digest))

    def tag(self, key: str) -> Step | None:
        """The index of a tag that points at nothing; `key` is that of everything of the tag."""
        repository, _, tag = key.removeprefix(keys.REPOSITORIES).partition("/_manifests/tags/")
        return Step(
            "what was left of the tag was removed", partial(self._tools.stores.tags.forget_if_gone, repository, tag)
        )

    def upload(self, place: Place) -> Step:
        """A record of an upload that can't be read: its client begins anew."""
        return Step("the record was removed", partial(self._tools.driver.delete, place.key))

    async def _drop_media_type(self, repository: str, digest: Digest) -> None:
        driver, manifests = self._tools.driver, self._tools.stores.manifests
        key = keys.media_type(repository, digest)
        try:
            text = (await driver.get(key, bytes_max=MEDIA_TYPE_BYTES_MAX)).body
        except (NotFound, StorageRefused):
            text = b""
        await driver.delete(key)
        if text and await manifests.exists(repository, digest):
            # Pushed since. Either this finds its link, or that push finds its media type gone.
            await driver.put(key, text)
