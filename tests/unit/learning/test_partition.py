"""Which samples lie at which site."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.errors import TaskError
from learning import Site
from learning.partition import (
    Dirichlet,
    Disjoint,
    Draws,
    Iid,
    Shards,
    draw,
    hold_out,
    parse_partition,
    part_of,
    split,
)

partitions = st.one_of(
    st.just(Iid()),
    st.floats(0.01, 100).map(Dirichlet),
    st.integers(1, 3).map(Shards),
)
labels = st.lists(st.integers(0, 9), min_size=30, max_size=300).map(np.array)
TEN_LABELS = np.arange(2000) % 10


@settings(deadline=None)
@given(labels=labels, partition=partitions, num_sites=st.integers(1, 10), seed=st.integers(0, 2**32))
def test_a_split_is_disjoint_and_covers_the_pool_and_leaves_no_site_empty(
    labels: np.ndarray, partition: Disjoint, num_sites: int, seed: int
) -> None:
    parts = split(labels, partition, num_sites, seed=seed)

    assert len(parts) == num_sites
    assert all(len(part) >= 1 for part in parts)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))


@settings(deadline=None)
@given(labels=labels, partition=partitions, seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_split(labels: np.ndarray, partition: Disjoint, seed: int) -> None:
    first, second = (split(labels, partition, 5, seed=seed) for _ in range(2))

    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@settings(deadline=None)
@given(labels=labels, partition=partitions, name=st.text(), seed=st.integers(0, 2**32))
def test_a_draw_is_of_distinct_samples_and_depends_on_the_name_alone(
    labels: np.ndarray, partition: Disjoint, name: str, seed: int
) -> None:
    part = draw(labels, partition, name, seed=seed)

    assert np.array_equal(part, draw(labels, partition, name, seed=seed))
    assert 1 <= len(np.unique(part)) == len(part)
    assert set(part) <= set(range(len(labels)))


def test_splits_are_the_same_on_every_machine() -> None:
    small = np.arange(16) % 4

    assert [part.tolist() for part in split(small, Iid(), 4, seed=7)] == [
        [1, 10, 14, 15],
        [4, 6, 7, 13],
        [0, 3, 8, 11],
        [2, 5, 9, 12],
    ]
    assert [part.tolist() for part in split(small, Shards(1), 4, seed=7)] == [
        [3, 7, 11, 15],
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
    ]
    assert draw(small, Dirichlet(0.5), "hospital-3", seed=7).tolist() == [0, 5]


@pytest.mark.parametrize("partition", [Iid(), Dirichlet(0.5), Shards(2)])
def test_a_site_known_by_its_name_draws_an_eighth_of_the_pool(partition: Disjoint) -> None:
    assert len(draw(TEN_LABELS, partition, "hospital-3", seed=0)) == len(TEN_LABELS) // 8


def test_sites_of_other_names_draw_other_samples() -> None:
    assert not np.array_equal(draw(TEN_LABELS, Iid(), "a", seed=0), draw(TEN_LABELS, Iid(), "b", seed=0))


def test_a_small_alpha_makes_sites_of_few_labels_and_a_large_one_makes_them_alike() -> None:
    def largest_share(alpha: float) -> float:
        parts = split(TEN_LABELS, Dirichlet(alpha), 8, seed=0)
        return float(np.mean([np.bincount(TEN_LABELS[part]).max() / len(part) for part in parts]))

    assert largest_share(1000) < 0.15 < 0.3 < largest_share(0.1)


def test_sites_of_two_shards_have_at_most_three_labels() -> None:
    for part in split(TEN_LABELS, Shards(2), 10, seed=0):
        assert len(np.unique(TEN_LABELS[part])) <= 3


@pytest.mark.parametrize(
    ("text", "partition"),
    [
        ("iid", Iid()),
        ("dirichlet:0.5", Dirichlet(0.5)),
        ("dirichlet:3", Dirichlet(3.0)),
        ("shards:2", Shards(2)),
        ("draws:20", Draws(20)),
    ],
)
def test_a_partition_is_read_from_text(text: str, partition: Disjoint) -> None:
    assert parse_partition(text) == partition


@pytest.mark.parametrize(
    "text",
    [
        *("", "IID", "iid:3", "zipf:2", "shards", "shards:0", "shards:1.5"),
        *("draws", "draws:0", "draws:-2", "draws:1.5"),
        *("dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "dirichlet:inf"),
    ],
)
def test_any_other_text_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"iid, dirichlet:ALPHA .* shards:K or draws:K"):
        parse_partition(text)


def test_a_pool_too_small_for_its_sites_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="3 samples cannot be split into 8 parts"):
        split([0, 1, 2], Shards(2), 4, seed=0)


def test_more_sites_than_samples_draw_so_many_each_by_their_names() -> None:
    sites = [Site(name=f"site-{index}", partition="draws:3", index=index, num_sites=50) for index in range(50)]
    parts = [part_of(np.arange(10), site) for site in sites]

    assert all(len(np.unique(part)) == 3 for part in parts)
    assert len({tuple(part) for part in parts}) > 25
    assert np.array_equal(parts[7], draw(np.arange(10), Draws(3), "site-7", seed=0))


def test_no_site_draws_more_samples_than_there_are() -> None:
    with pytest.raises(TaskError, match="11 samples cannot be drawn out of 10"):
        part_of(np.arange(10), Site(name="a", partition="draws:11"))


def test_labels_of_any_kind_will_do() -> None:
    assert len(split(["cat", "dog", "cat", "eel"], Dirichlet(1.0), 2, seed=0)) == 2


def test_an_indexed_site_gets_its_part_of_the_split_whatever_its_name() -> None:
    site = Site(name="anything", partition="dirichlet:0.5", index=2, num_sites=5, seed=9)

    assert np.array_equal(part_of(TEN_LABELS, site), split(TEN_LABELS, Dirichlet(0.5), 5, seed=9)[2])


def test_a_site_without_an_index_draws_by_its_name() -> None:
    site = Site(name="hospital-3", partition="shards:2", seed=9)

    assert np.array_equal(part_of(TEN_LABELS, site), draw(TEN_LABELS, Shards(2), "hospital-3", seed=9))


def test_the_aggregator_holds_no_part() -> None:
    with pytest.raises(TaskError, match="aggregator holds no part"):
        part_of(TEN_LABELS, Site())


def test_a_site_that_cannot_get_a_part_is_named_in_the_error() -> None:
    with pytest.raises(TaskError, match=r"site 'w0'.*cannot be split"):
        part_of([0, 1], Site(name="w0", index=0, num_sites=3))


@pytest.mark.parametrize(("index", "num_sites"), [(0, None), (None, 4), (4, 4), (-1, 4)])
def test_a_site_with_half_an_index_or_one_out_of_range_is_refused(index: int | None, num_sites: int | None) -> None:
    with pytest.raises(ValueError, match="site 'w'"):
        Site(name="w", index=index, num_sites=num_sites)


@settings(deadline=None)
@given(labels=labels, seed=st.integers(0, 2**32))
def test_held_out_samples_are_a_fifth_and_the_rest_is_kept(labels: np.ndarray, seed: int) -> None:
    kept, held_out = hold_out(labels, one_in=5, seed=seed)

    assert len(held_out) == len(labels) // 5
    assert sorted([*kept, *held_out]) == list(range(len(labels)))


def test_every_label_is_held_out_in_its_proportion() -> None:
    _, held_out = hold_out(TEN_LABELS, one_in=5, seed=0)

    assert np.bincount(TEN_LABELS[held_out]).tolist() == [40] * 10


def test_a_site_of_few_samples_holds_out_none() -> None:
    kept, held_out = hold_out([1, 0, 1], one_in=5, seed=0)

    assert (len(kept), len(held_out)) == (3, 0)


def test_a_site_that_changes_its_part_changes_nobody_else_s() -> None:
    site = Site(name="w0", index=0, num_sites=3)
    first = part_of(TEN_LABELS, site)
    wanted = first.copy()
    first[:] = 0

    assert part_of(TEN_LABELS, site).tolist() == wanted.tolist() == split(TEN_LABELS, Iid(), 3, seed=0)[0].tolist()
