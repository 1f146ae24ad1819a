"""The TCP ports on which the processes of a command listen."""

from __future__ import annotations

import contextlib
import ipaddress

import psutil


def listening(process: int) -> dict[tuple[str, int], str]:
    """Return the addresses on which `process` and its descendants listen, each with the name of its process."""
    root = psutil.Process(process)
    found = {}
    for each in [root, *root.children(recursive=True)]:
        try:
            connections = each.net_connections("tcp")
        except psutil.Error:
            continue
        found |= {
            (entry.laddr.ip, entry.laddr.port): command_line(each)
            for entry in connections
            if entry.status == psutil.CONN_LISTEN
        }
    return found


def command_line(process: psutil.Process) -> str:
    """Return the words of a process, or none if it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def is_loopback(ip: str) -> bool:
    """Return whether only this machine reaches the address."""
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
