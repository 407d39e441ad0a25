"""Property tests: the same cases on every machine, no time limit for a single one, nothing written."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fedmq",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fedmq")
