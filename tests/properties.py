"""What property-based tests share: texts of the wire, and how hypothesis is set up.

Deadlines are off, for a busy machine makes no test wrong; under CI the examples are the same in every run.
"""

import os
import re

from hypothesis import settings
from hypothesis import strategies as st

from storage.digest import ALGORITHMS

settings.register_profile("pierhead", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("pierhead")

COMPONENT = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
NAME_GRAMMAR = re.compile(rf"{COMPONENT}(/{COMPONENT})*")
"""The grammar of names as distribution-spec has it; slow for hostile texts, so for short ones only."""
TAG_GRAMMAR = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

ROUTE_WORDS = ["blobs", "uploads", "manifests", "tags", "list", "referrers", "ext", "discover", "v2"]

components = st.sampled_from(ROUTE_WORDS) | st.from_regex(
    r"[a-z0-9]{1,3}((\.|__?|-{1,3})[a-z0-9]{1,3})?", fullmatch=True
)
repository_names = st.lists(components, min_size=1, max_size=6).map("/".join)
tags = st.sampled_from(["list", "uploads", "latest", "_"]) | st.from_regex(
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,9}", fullmatch=True
)
digest_texts = st.sampled_from(sorted(ALGORITHMS)).flatmap(
    lambda algorithm: st.text("0123456789abcdef", min_size=ALGORITHMS[algorithm], max_size=ALGORITHMS[algorithm]).map(
        lambda encoded: f"{algorithm}:{encoded}"
    )
)
