"""Which hosts are this machine's loopback."""

from __future__ import annotations

import pytest

from serving.loopback import is_loopback


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "127.0.0.1", "127.0.0.2", "127.9.8.7", "::1", "0:0::1", "::ffff:127.0.0.1"]
)
def test_loopback_is_every_name_and_address_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "127.1", "127.999.1.1", "127.0.0.1.example.com", "localhost.example", "[::1]"],
)
def test_loopback_is_no_other_host(host: str) -> None:
    assert not is_loopback(host)
