"""``--sample`` as text, and the draws that it makes."""

import pytest
from pydantic import ValidationError

from aggregator.presence.sample import Sample, next_draw
from aggregator.settings import AggregatorSettings
from broker.wire.headers.participation import Draw, threshold_of_share

pytestmark = pytest.mark.timeout(30)

NAMES = [f"worker-{index}" for index in range(20)]


def chosen(draw: Draw, number: int = 1) -> list[str]:
    return [name for name in NAMES if draw.chooses(name, seed=0, round_number=number)]


@pytest.mark.parametrize(
    ("text", "share", "enough", "asked"),
    [
        ("0.1", 0.1, None, None),
        ("10%", 0.1, None, None),
        ("1.0", 1.0, None, None),
        ("10", None, 10, 10),
        ("10x1.3", None, 10, 13),
        ("3x1.5", None, 3, 5),
        ("1", None, 1, 1),
    ],
)
def test_a_sample_is_a_share_or_a_count_and_is_shown_as_it_was_written(
    text: str, share: float | None, enough: int | None, asked: int | None
) -> None:
    sample = Sample.parse(text)
    assert (sample.share, sample.enough, sample.num_asked, str(sample)) == (share, enough, asked, text)


@pytest.mark.parametrize("text", ["", "0", "-1", "0.0", "1.5", "200%", "10x", "x2", "10x0.5", "0.5x2", "1e-9", "nan%"])
def test_any_other_sample_is_refused_with_what_it_may_be(text: str) -> None:
    with pytest.raises(ValidationError, match=r"such as 0.1 or 10%, a count such as 10"):
        AggregatorSettings(sample=text)


def test_a_sample_from_a_yaml_file_may_be_a_number() -> None:
    assert AggregatorSettings(sample=0.25).config.sample == Sample.parse("0.25")
    assert AggregatorSettings(sample=12).config.sample == Sample.parse("12")
    assert AggregatorSettings().config.sample is None


def test_a_quorum_of_more_than_take_part_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most 10 updates are waited for"):
        AggregatorSettings(sample="10x1.3", quorum="11")
    AggregatorSettings(sample="10x1.3", quorum="10")
    AggregatorSettings(sample="0.1", quorum="11")


def test_a_share_draws_alike_whoever_is_present() -> None:
    first = next_draw(Sample.parse("0.25"), NAMES, seed=0, round_number=1)
    assert first == next_draw(Sample.parse("0.25"), (), seed=0, round_number=1)
    assert first == Draw(number=1, threshold=threshold_of_share(0.25))


def test_a_share_that_chooses_nobody_present_draws_until_it_does() -> None:
    sample, number = Sample.parse("0.25"), 1
    absent = [name for name in NAMES if name not in chosen(next_draw(sample, (), seed=0, round_number=number))][:2]
    draw = next_draw(sample, absent, seed=0, round_number=number)
    assert draw.number > 1
    assert set(absent) & set(chosen(draw))
    assert not any(
        set(absent) & set(chosen(Draw(number=before, threshold=draw.threshold))) for before in range(1, draw.number)
    )


def test_a_count_draws_so_many_of_those_present_and_nobody_where_nobody_is() -> None:
    sample = Sample.parse("5")
    draw = next_draw(sample, NAMES, seed=0, round_number=1)
    assert chosen(draw) == [f"worker-{index}" for index in (1, 2, 6, 16, 17)]
    assert next_draw(sample, (), seed=0, round_number=1) == Draw(number=0, threshold=0)
    again = next_draw(sample, NAMES, seed=0, round_number=1, after=draw)
    assert (again.number, len(chosen(again))) == (2, 5)
    assert chosen(again) != chosen(draw)


def test_more_are_asked_than_are_waited_for() -> None:
    sample = Sample.parse("10x1.3")
    assert len(chosen(next_draw(sample, NAMES, seed=0, round_number=1))) == 13
    assert [sample.target_among(number) for number in (13, 11, 10, 4)] == [10, 10, 10, 4]
    assert Sample.parse("0.5").target_among(13) == 13
