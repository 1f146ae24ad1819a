"""Recognises the names and addresses of this machine's loopback."""

from __future__ import annotations

import ipaddress

LOOPBACK = "127.0.0.1"
"""The address on which a server listens that other machines must not reach."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`: localhost in any case, 127.0.0.0/8, or ::1 without brackets."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
