"""The command line: options, and how every command starts, reports and ends."""

from utils.cli.command import (
    Help,
    Parser,
    add_dask_option,
    add_threads_option,
    choose_device,
    execute,
    positive,
    progress,
    size,
    warn,
    workers,
)

__all__ = [
    "Help",
    "Parser",
    "add_dask_option",
    "add_threads_option",
    "choose_device",
    "execute",
    "positive",
    "progress",
    "size",
    "warn",
    "workers",
]
