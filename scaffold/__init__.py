"""A project to start from, and the settings of all commands as text. `fl-init` is in cli.py."""
