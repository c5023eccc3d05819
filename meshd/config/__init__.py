"""Settings of meshd: what can be set (settings) and where it comes from (sources)."""

from meshd.config.settings import (
    Settings,
    SettingsError,
    StartError,
    default_socket,
    is_loopback,
    split_address,
)
from meshd.config.sources import CommandLine, load

__all__ = [
    "CommandLine",
    "Settings",
    "SettingsError",
    "StartError",
    "default_socket",
    "is_loopback",
    "load",
    "split_address",
]
