"""A broker's URL, and the list of a cluster's: as people write them, and as they are shown."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from broker.addresses import addresses_of, redacted
from broker.settings import BrokerSettings

SECRET = "Hunter2"
A, B, C = (f"amqp://site:{SECRET}@{host}:5672/fl" for host in "abc")


def read(broker: object) -> tuple[str, ...]:
    return addresses_of(BrokerSettings.model_validate({"broker": broker}).broker)


def problem(broker: object) -> str:
    with pytest.raises(ValidationError) as caught:
        read(broker)
    text = caught.value.errors(include_input=False)[0]["msg"]
    assert SECRET not in text
    return text


@pytest.mark.parametrize("text", [f"{A},{B},{C}", f" {A} , {B},  {C} ", [A, B, C]], ids=["flag", "spaces", "yaml"])
def test_a_cluster_is_a_list_of_urls(text: object) -> None:
    assert read(text) == (A, B, C)


def test_one_broker_is_a_list_of_one() -> None:
    assert read(A) == (A,)
    assert read(SecretStr(A)) == (A,)


def test_a_file_has_one_url_a_line(tmp_path: Path) -> None:
    file = tmp_path / "brokers"
    file.write_text(f"# the three of them\n{A}\n\n  {B}\n{C}\n")
    assert read(str(file)) == (A, B, C)
    file.write_text("# none yet\n")
    assert "lists no broker; expected amqp://" in problem(str(file))
    file.write_text(f"{A}\nhttp://b/\n")
    assert "address 2 of 2 is not a broker's URL" in problem(str(file))
    file.write_bytes(b"\xff\xfe")
    assert "nor a file that can be read" in problem(str(file))
    assert "nor a file that can be read" in problem(str(tmp_path / "nothing"))
    assert "nor a file that can be read" in problem(SECRET)


def test_a_comma_in_a_password_belongs_to_it() -> None:
    url = "amqp://site:a,b,amqp@a:5672/"
    assert read(f"{url},{url.replace('@a', '@b')}") == (url, url.replace("@a", "@b"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{A},{A}", "a:5672 is twice in the list"),
        (f"amqps://site:{SECRET}@a/fl,{A},amqps://site:{SECRET}@A:5671/fl", "a:5671 is twice"),
        (f"{A},amqp://other:{SECRET}@b/fl", "must have the same user, password and virtual host"),
        (f"{A},amqp://site:{SECRET}x@b/fl", "must have the same user, password and virtual host"),
        (f"{A},amqp://site:{SECRET}@b/other", "must have the same user, password and virtual host"),
        (f"{A},http://site:{SECRET}@b/fl", "address 2 of 2 is not a broker's URL"),
        (f"{A},amqp://{SECRET}@b/fl", "address 2 of 2 is not a broker's URL: it has a user and no password"),
        (f"{A},", "it has a comma after the host"),
        (f"amqp://site:{SECRET}@a:5672,b:5672/fl", "write each address of a list in full"),
        ([A, 3], "valid string"),
    ],
)
def test_what_can_be_no_cluster_is_told_without_its_password(text: object, told: str) -> None:
    assert told in problem(text)


def test_the_default_virtual_host_can_be_written_in_several_ways() -> None:
    assert len(read("amqp://a,amqp://b/,amqps://c/%2F")) == 3


def test_a_list_is_shown_without_its_passwords() -> None:
    assert redacted(SecretStr(f"{A},{B}")) == "amqp://site@a:5672/fl, amqp://site@b:5672/fl"
