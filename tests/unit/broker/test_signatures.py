"""The bytes that are signed, and the trailer that carries a signature."""

import pytest

from broker.wire import KEY_ID_BYTES, MAX_TRAILER_BYTES, SIGNATURE_BYTES, Believing, Signer, Trailer, Trust, signed_text
from console import ForgedMessage, MessageError

WITHOUT_CERTIFICATE = KEY_ID_BYTES + SIGNATURE_BYTES


def test_the_text_that_is_signed_is_label_kind_certificate_and_header() -> None:
    assert signed_text("update", b"header") == b"fedmq/2|update|\0\0header"
    assert signed_text("update", memoryview(b"header"), b"abc") == b"fedmq/2|update|\3\0abcheader"


def test_a_byte_moved_between_certificate_and_header_changes_the_text() -> None:
    assert signed_text("update", b"bc", b"a") != signed_text("update", b"c", b"ab")


def test_a_trailer_is_taken_apart_and_put_together() -> None:
    trailer = Trailer(b"k" * 8, b"s" * 64, b"certificate")
    assert trailer.packed == b"k" * 8 + b"s" * 64 + b"certificate"
    assert Trailer.parse(memoryview(trailer.packed)) == trailer
    assert Trailer.parse(bytes(WITHOUT_CERTIFICATE)).certificate == b""


@pytest.mark.parametrize("size", [0, 1, WITHOUT_CERTIFICATE - 1, MAX_TRAILER_BYTES + 1])
def test_a_trailer_of_another_size_is_a_forged_message(size: int) -> None:
    with pytest.raises(ForgedMessage, match=f"not {size}$" if size else "not signed"):
        Trailer.parse(bytes(size))
    assert issubclass(ForgedMessage, MessageError)


def test_without_a_roster_nothing_is_signed_and_every_sender_is_believed() -> None:
    trust: Trust = Believing()
    assert trust.sign("update", b"header") == b""
    assert trust.signer_of("update", b"header", b"anything") is None


def test_a_signer_is_shown_with_role_and_name() -> None:
    assert str(Signer("worker", "hospital-a")) == "worker hospital-a"
