"""What the suite reports for a registry that conforms: the counts, and what each version leaves out."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

APIS = frozenset(
    {
        "Blob anonymous mount",
        "Blob chunked",
        "Blob delete",
        "Blob delete atomic",
        "Blob get",
        "Blob get range",
        "Blob head",
        "Blob mount",
        "Blob post only",
        "Blob post put",
        "Blob push",
        "Blob streaming",
        "Blob upload cancel",
        "Manifest delete",
        "Manifest delete atomic",
        "Manifest get by digest",
        "Manifest get by tag",
        "Manifest head by digest",
        "Manifest head by tag",
        "Manifest put by digest",
        "Manifest put by tag",
        "Manifest put with subject",
        "Manifest put with tag params",
        "Ping",
        "Referrers",
        "Tag delete",
        "Tag delete atomic",
        "Tag listing",
    }
)
"""The `apis` of results.yaml."""

DATA = frozenset(
    {
        "Artifact",
        "Artifact Index",
        "Artifact without Layers",
        "Artifacts with Subject",
        "Bad Digest Image",
        "Blobs sha256",
        "Blobs sha512",
        "Custom Fields",
        "Data Field",
        "Digest Algorithm sha512",
        "Empty Index",
        "Image",
        "Image Uncompressed",
        "Image with Large Manifest",
        "Index",
        "Index with Subject",
        "Invalid Manifest Digest",
        "Missing Subject",
        "Nested Index",
        "No Layers",
        "Non-distributable Layers",
        "Sparse Manifests",
        "Tag Param",
        "Tag Param sha512",
    }
)
"""The `data` of results.yaml: the sets of images that are pushed, pulled and deleted."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many checks ended in which way."""

    passed: int
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    disabled: int = 0

    @property
    def total(self) -> int:
        """The number of all checks."""
        return self.passed + self.failed + self.errors + self.skipped + self.disabled


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one version of the suite reports; everything in it passes but what it disables itself."""

    counts: Counts
    disabled_apis: frozenset[str] = frozenset()
    disabled_data: frozenset[str] = frozenset()

    @property
    def apis(self) -> dict[str, str]:
        """Name to status, as under `apis` in results.yaml."""
        return {name: "Disabled" if name in self.disabled_apis else "Pass" for name in APIS}

    @property
    def data(self) -> dict[str, str]:
        """Name to status, as under `data` in results.yaml."""
        return {name: "Disabled" if name in self.disabled_data else "Pass" for name in DATA}


EXPECTATIONS: Mapping[str, Expectation] = MappingProxyType(
    {
        "1.1": Expectation(
            Counts(passed=860, disabled=2),
            frozenset({"Blob upload cancel", "Manifest put with tag params"}),
            frozenset({"Sparse Manifests", "Tag Param", "Tag Param sha512"}),
        ),
        # Sparse manifests are off in every version: a registry may refuse them, and ours does by default.
        "dev": Expectation(Counts(passed=986), frozenset(), frozenset({"Sparse Manifests"})),
    }
)
"""By version of the suite, as OCI_VERSION takes it."""
