"""Starts, watches and ends child processes; replaces files atomically. Standard library only."""

from thothy_batch.process.atomic_write import replace_file, sync_folder
from thothy_batch.process.children import (
    can_die_with_parent,
    die_with_parent,
    end_with_parent,
    ignore_parent_signals,
    parent_signals_blocked,
    spawned,
)
from thothy_batch.process.pool import map_chunks

__all__ = [
    "can_die_with_parent",
    "die_with_parent",
    "end_with_parent",
    "ignore_parent_signals",
    "map_chunks",
    "parent_signals_blocked",
    "replace_file",
    "spawned",
    "sync_folder",
]
