"""Immutable tags: once set they point where they point, and what they point at stays."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry import media_types
from registry.auth.globs import Globs
from registry.documents import read_manifest
from registry.errors import Denied
from registry.names import RepositoryName
from registry.tag_patterns import TagPatterns
from registry.tag_rules import ImmutableTags
from storage.digest import Digest
from storage.errors import NotFound
from storage.manifests import ManifestStore
from storage.tags import TagStore

REFERRER_TAG = re.compile(r"sha(?:256|512)-[0-9a-f]{64,128}(?:\.[A-Za-z0-9_-]{1,32})?")
"""Tags that clients keep signatures and referrers under, and rewrite with each further one: `sha256-….sig` of cosign,
and `sha256-…` of clients that know no referrers API (distribution-spec, "Referrers Tag Schema")."""

INDEX_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True)
class _Rule:
    text: str
    repositories: Globs
    tags: TagPatterns
    excepted: TagPatterns


class Immutability:
    """The rules. The first one that covers a tag is the one that is told."""

    def __init__(self, rules: Sequence[ImmutableTags] = ()) -> None:
        self._rules = [
            _Rule(
                rule.describe("immutable", number),
                Globs.of_names(rule.repositories),
                TagPatterns(rule.tags),
                TagPatterns(rule.excepted),
            )
            for number, rule in enumerate(rules, 1)
        ]

    def covers_any_of(self, repository: str) -> bool:
        """Tell whether any tag of a repository may be immutable."""
        return any(rule.repositories.match(repository) for rule in self._rules)

    def rule(self, repository: str, tag: str) -> str | None:
        """The rule that makes a tag immutable, in words, or None."""
        if not self._rules or REFERRER_TAG.fullmatch(tag):
            return None
        for rule in self._rules:
            if rule.repositories.match(repository) and rule.tags.match(tag) and not rule.excepted.match(tag):
                return rule.text
        return None

    def on_set(self, repository: str, tag: str, new: Digest) -> Callable[[Digest | None], None] | None:
        """What has to be asked in the step that sets a tag to `new`, with where it points; None if that is nothing.

        Asked, it raises Denied.
        """
        rule = self.rule(repository, tag)
        if rule is None:
            return None

        def allow(current: Digest | None) -> None:
            if current not in {None, new}:
                raise _denied(f"the tag {tag} is immutable and exists: push under another tag", rule, tag, current)

        return allow

    def on_delete(self, repository: str, tag: str) -> Callable[[Digest | None], None] | None:
        """What has to be asked in the step that deletes a tag; None if that is nothing. Asked, it raises Denied."""
        rule = self.rule(repository, tag)
        if rule is None:
            return None

        def allow(current: Digest | None) -> None:
            raise _denied(f"the tag {tag} is immutable, and stays", rule, tag, current)

        return allow


class ImmutableManifests:
    """What immutable tags point at, and what an index that they point at lists."""

    def __init__(self, rules: Immutability, tags: TagStore, manifests: ManifestStore) -> None:
        self._rules = rules
        self._tags = tags
        self._manifests = manifests

    async def refuse(self, repository: RepositoryName, digest: Digest, *, seen: set[str]) -> None:
        """Raise Denied if an immutable tag needs the manifest.

        Tags in `seen` are passed over, those that were read are added: since they are immutable, a second look has to
        read only those that have come since.
        """
        if not self._rules.covers_any_of(repository):
            return
        for tag in await self._tags.names(repository):
            rule = None if tag in seen else self._rules.rule(repository, tag)
            if rule is None:
                continue
            try:
                current = await self._tags.get(repository, tag)
            except NotFound:
                continue
            if await self._needs(repository, current, digest, depth=0):
                raise _denied(f"the immutable tag {tag} needs this manifest, so it stays", rule, tag, current)
            seen.add(tag)

    async def _needs(self, repository: RepositoryName, holder: Digest, digest: Digest, *, depth: int) -> bool:
        if holder == digest:
            return True
        if depth == INDEX_DEPTH_MAX:
            return False
        try:
            canonical = await self._manifests.resolve(repository, holder)
            references = read_manifest((await self._manifests.read(holder, canonical)).body).references
        except (NotFound, ValueError):
            return False  # it can't be pulled anyway
        if any(each.digest == digest for each in references):
            return True
        indexes = [each.digest for each in references if each.media_type in media_types.INDEXES]
        for index in indexes:
            if await self._needs(repository, index, digest, depth=depth + 1):
                return True
        return False


def _denied(message: str, rule: str, tag: str, current: Digest | None) -> Denied:
    points = "" if current is None else f"; it points at {current}"
    return Denied(
        f"{message}: {rule}{points}",
        detail={"rule": rule, "tag": tag, **({} if current is None else {"current": str(current)})},
    )
