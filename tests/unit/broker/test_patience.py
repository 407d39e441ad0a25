"""How long somebody waits who looks: for several answers, and from the start of the command on."""

import time

import pytest

from broker.patience import Patience
from broker.settings import BrokerSettings, soon


def test_each_question_has_what_the_others_left_of_the_time_and_at_least_a_second() -> None:
    assert Patience.of(9.0).left_s == pytest.approx(9.0, abs=0.5)
    assert Patience(time.monotonic() + 4.0).left_s == pytest.approx(4.0, abs=0.5)
    assert Patience(time.monotonic() - 5.0).left_s == 1.0


@pytest.mark.parametrize(("spent_s", "left_s"), [(0.0, 7.0), (2.0, 5.0), (60.0, 3.5)])
def test_what_a_command_took_to_start_is_part_of_the_time_that_it_has(spent_s: float, left_s: float) -> None:
    assert soon(BrokerSettings(), spent_s=spent_s).connect_timeout_s == left_s


def test_a_time_that_was_given_holds() -> None:
    assert soon(BrokerSettings(connect_timeout_s=30.0), spent_s=3.0).connect_timeout_s == 30.0
