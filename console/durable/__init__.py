"""What is on the disk once a call returns, whole or not at all: files, and transactions of SQLite."""

from console.durable.files import append_line, replace_file, sync_folder, write_all
from console.durable.transactions import transaction

__all__ = ["append_line", "replace_file", "sync_folder", "transaction", "write_all"]
