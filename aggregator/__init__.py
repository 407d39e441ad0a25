"""The global model: rounds, exact mean, checkpoint, ledger. `fl-aggregator` is in cli.py."""
