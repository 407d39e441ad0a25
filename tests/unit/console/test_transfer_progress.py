"""Parts that pass are told of, and are the same parts."""

from console.watching import Transferring, with_progress

PART = 2**19


def test_parts_are_told_of_once_they_are_taken_and_at_most_once_a_mebibyte() -> None:
    events: list[Transferring] = []
    parts = [bytes(PART) for _ in range(5)]
    passed = with_progress(
        parts, events.append, what="model of round 1", is_upload=True, total_bytes=5 * PART, size_of=len
    )
    assert next(passed) is parts[0]
    assert [event.num_bytes for event in events] == [0]
    assert list(passed) == parts[1:]
    assert [event.num_bytes // PART for event in events] == [0, 2, 4, 5]
    assert {(event.what, event.is_upload, event.total_bytes) for event in events} == {
        ("model of round 1", True, 5 * PART)
    }
