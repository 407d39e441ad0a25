"""How a run goes on: where it stands, and the open round with its clock."""

from aggregator.course.course import Course
from aggregator.course.current_round import CurrentRound

__all__ = ["Course", "CurrentRound"]
