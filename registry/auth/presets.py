"""CI systems and clusters whose tokens are known: where they come from, and which of their claims matter."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Preset:
    """What there is to know of a kind of issuer.

    `claims` are passed on, each under the name that it has here: name to claim, nested ones as `outer.inner`. From
    `public_issuers` anybody at all can get a token, so that one of `owners` has to be asked for.
    """

    issuer: str | None = None
    identity_claim: str = "sub"
    claims: Mapping[str, str] | None = None
    public_issuers: frozenset[str] = frozenset()
    owners: tuple[str, ...] = ()


def _same(*names: str) -> Mapping[str, str]:
    return MappingProxyType({name: name for name in names})


GITHUB = "https://token.actions.githubusercontent.com"
GITLAB = "https://gitlab.com"
KUBERNETES = "https://kubernetes.default.svc.cluster.local"

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "github": Preset(
            issuer=GITHUB,
            claims=_same(
                "sub",
                "repository",
                "repository_id",
                "repository_owner",
                "repository_owner_id",
                "repository_visibility",
                "ref",
                "ref_type",
                "ref_protected",
                "environment",
                "event_name",
                "workflow_ref",
                "job_workflow_ref",
                "runner_environment",
                "actor",
                "actor_id",
                "sha",
                "run_id",
            ),
            public_issuers=frozenset({GITHUB}),
            owners=("sub", "repository", "repository_id", "repository_owner", "repository_owner_id"),
        ),
        "gitlab": Preset(
            issuer=GITLAB,
            claims=_same(
                "sub",
                "namespace_path",
                "namespace_id",
                "project_path",
                "project_id",
                "ref",
                "ref_type",
                "ref_path",
                "ref_protected",
                "environment",
                "environment_protected",
                "pipeline_source",
                "pipeline_id",
                "job_id",
                "ci_config_ref_uri",
                "runner_environment",
                "user_login",
                "user_id",
                "sha",
            ),
            public_issuers=frozenset({GITLAB}),
            owners=("sub", "namespace_path", "namespace_id", "project_path", "project_id"),
        ),
        "kubernetes": Preset(
            issuer=KUBERNETES,
            claims=MappingProxyType(
                {
                    "sub": "sub",
                    "namespace": "kubernetes.io.namespace",
                    "serviceaccount": "kubernetes.io.serviceaccount.name",
                    "serviceaccount_uid": "kubernetes.io.serviceaccount.uid",
                    "pod": "kubernetes.io.pod.name",
                    "node": "kubernetes.io.node.name",
                }
            ),
        ),
    }
)
NO_PRESET = Preset()
