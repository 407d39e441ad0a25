"""What comes in for the open round: updates and answers of workers, masks of keepers, and what was only begun."""

from aggregator.incoming.abandoned import delete_abandoned_sums, delete_abandoned_uploads
from aggregator.incoming.reception import Reception

__all__ = ["Reception", "delete_abandoned_sums", "delete_abandoned_uploads"]
