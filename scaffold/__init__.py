"""A project to begin with, and the settings of all commands as text. `fl-init` is in cli.py."""
