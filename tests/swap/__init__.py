"""The same data directory under Pierhead and under distribution, in turn."""

import pytest

pytest.register_assert_rewrite("tests.swap.client")
