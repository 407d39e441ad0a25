"""One site: its data stay here, its updates travel. `fl-worker` is in cli.py."""
