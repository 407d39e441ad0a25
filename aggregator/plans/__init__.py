"""What rounds are to be like, planned ahead: values that follow from the round. Pure, and knows no run."""

from aggregator.plans.scheduled import SCHEDULED, Scheduled, number_of, schedule_of, scheduled_by
from aggregator.plans.settings import ScheduleSettings

__all__ = ["SCHEDULED", "ScheduleSettings", "Scheduled", "number_of", "schedule_of", "scheduled_by"]
