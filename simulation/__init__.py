"""A whole federation on one machine. `fl-simulate` is in cli.py; only this package knows workers and aggregator."""
