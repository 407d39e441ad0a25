"""Texts such as ``krum:f=2,m=6``: what they mean, what is refused, and that they can be read back."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Field

from console.flags import parse_named, text_of_named


@dataclass(frozen=True, slots=True)
class Plain:
    """No parameters."""


@dataclass(frozen=True, slots=True)
class Rule:
    f: Annotated[int, Field(ge=0)] = 1
    share: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    v0: Literal["0", "tau2"] = "tau2"
    is_slow: bool = False


KINDS: dict[str, type] = {"plain": Plain, "rule": Rule}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", Plain()),
        ("rule", Rule()),
        ("rule:f=2", Rule(f=2)),
        ("rule:0.2", Rule(share=0.2)),
        (" rule : 0.2 , v0=0 , is_slow=true", Rule(share=0.2, v0="0", is_slow=True)),
        ("rule:share=0.30000000000000004", Rule(share=0.30000000000000004)),
    ],
)
def test_a_text_is_one_of_the_known(text: str, value: object) -> None:
    found = parse_named(text.replace(" :", ":"), KINDS, unnamed={"rule": "share"})
    assert found == value
    assert parse_named(text_of_named(value, KINDS), KINDS) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ruel", "there is no 'ruel'; known are plain, rule"),
        ("", "there is no ''; known are plain, rule"),
        ("plain:f=1", "plain has no parameter 'f'; it has no parameters"),
        ("rule:g=1", "rule has no parameter 'g'; it has f, share, v0, is_slow"),
        ("rule:f=1,f=2", "rule has 'f' twice"),
        ("rule:f=1,2", "rule has key=value after the colon, with commas between, not '2'"),
        ("rule:", "rule has key=value"),
        ("rule:f=-1", "rule: f: Input should be greater than or equal to 0"),
        ("rule:v0=1", "rule: v0: Input should be '0' or 'tau2'"),
        ("rule:share=nan", "rule: share: "),
    ],
)
def test_anything_else_is_refused_with_what_is_known(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="^" + said.replace("(", r"\(").replace(".", r"\.")):
        parse_named(text, KINDS)
