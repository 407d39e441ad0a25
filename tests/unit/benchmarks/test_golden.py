"""The golden traces of the table that puts fedmq beside its peers."""

import pytest

from benchmarks.golden import TRACES, is_same, ours

OURS = ours()


@pytest.mark.parametrize("name", TRACES)
def test_fedmq_gives_the_papers_values(name: str) -> None:
    assert is_same(name, OURS[name]), OURS[name]
