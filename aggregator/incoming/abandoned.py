"""Blobs that no message names, since their senders died while sending: deleted once nothing in them can count."""

from aggregator.course import Course
from aggregator.presence import PartialUploads, Uploads
from broker.wire import names_of, num_bytes_of


def delete_abandoned_uploads(course: Course, uploads: Uploads, number: int) -> None:
    """Deletes those of workers, of rounds whose updates do not count in round ``number`` any more."""
    expected = course.run.expected
    blobs = [
        expected.topology.update_blob(worker, expected.run_id, base_round)
        for worker, base_round in uploads.abandoned(before=number - course.config.policy.max_staleness)
    ]
    names = [name for blob in blobs for name in reversed(names_of(blob))]  # the first may fail every time
    if num_bytes_of(expected.encoding.encoded) > course.run.run.inline_cap:
        course.run.stores.transport.delete_blobs(names)


def delete_abandoned_sums(course: Course, uploads: PartialUploads) -> None:
    """Deletes those of partial aggregators, once their round is closed and any that still arrive are late."""
    expected = course.run.expected
    names = [
        expected.topology.partial_blob(shard, expected.run_id, uploads.round, sequence)
        for shard, sequence in uploads.unknown()
    ]
    if uploads.are_few:
        names = [name for blob in names for name in reversed(names_of(blob))]
    if expected.encoding.sum_bytes > course.run.run.inline_cap:
        course.run.stores.transport.delete_blobs(names)
