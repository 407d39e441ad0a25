"""The names of fedmq's own packages, which a user's module may have too."""

OUR_PACKAGES = frozenset(
    {
        "aggregator",
        "broker",
        "console",
        "dashboard",
        "fedmq",
        "identities",
        "keeper",
        "learning",
        "operations",
        "privacy",
        "scaffold",
        "simulation",
        "starting",
        "worker",
    }
)
