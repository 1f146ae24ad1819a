"""Keys, rates, the Host check, and CORS, without a server."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from serving.access import Access
from serving.config import AccessSettings, ApiKey, KeySource
from serving.errors import ForbiddenError, KeyFileError, RateLimitError, UnauthorizedError
from serving.keys import new_key, plain_key, read_keys, with_keys, with_keys_of_node

PATH = "/v2/models/digits/infer"


def access(*keys: tuple[str, str | None], processes: int = 1) -> Access:
    entries = [ApiKey(name=text, sha256=ApiKey.digest(text.encode()), rate=rate) for text, rate in keys]
    return Access(AccessSettings(keys=tuple(entries)), processes)


def passed(guard: Access, key: str, times: list[float]) -> list[bool]:
    def passes(now: float) -> bool:
        try:
            guard.check(PATH, {"x-api-key": key}, now)
        except RateLimitError:
            return False
        return True

    return [passes(now) for now in times]


def test_access_takes_any_of_its_keys() -> None:
    guard = access(("one", None), ("schlüssel", None))
    guard.check(PATH, {"x-api-key": "one"}, 0)
    for scheme in ("Bearer", "bearer", "BEARER"):
        guard.check(PATH, {"authorization": f"{scheme} one"}, 0)
    guard.check(PATH, {"authorization": "Bearer  one"}, 0)
    guard.check(PATH, {"x-api-key": "schlüssel".encode().decode("latin-1")}, 0)
    guard.check("/v2/health/live", {}, 0)
    wrong = ({"x-api-key": "two"}, {"x-api-key": ApiKey.digest(b"one")}, {"authorization": "Bearer"}, {})
    without_scheme = ({"authorization": "one"}, {"authorization": "Basic one"}, {"authorization": "Bearerone"})
    for headers in (*wrong, *without_scheme):
        with pytest.raises(UnauthorizedError):
            guard.check(PATH, headers, 0)


def test_access_without_keys_is_open() -> None:
    Access(AccessSettings()).check(PATH, {}, 0)


def test_access_lets_a_burst_pass_and_then_the_rate() -> None:
    guard = access(("slow", "4/s"), ("fast", None))
    assert passed(guard, "slow", [10.0] * 5) == [True] * 4 + [False]
    assert passed(guard, "slow", [10.25, 10.25, 10.6, 10.74]) == [True, False, True, False]
    assert passed(guard, "slow", [100.0] * 5) == [True] * 4 + [False]
    assert passed(guard, "fast", [10.0] * 100) == [True] * 100


def test_access_states_when_the_rate_allows_the_next_request() -> None:
    guard = access(("slow", "6/m"))
    passed(guard, "slow", [0.0] * 6)
    with pytest.raises(RateLimitError, match=r"the key 'slow' has used up its rate: try again in 10 s") as caught:
        guard.check(PATH, {"x-api-key": "slow"}, 0.0)
    assert caught.value.headers == {"Retry-After": "10"}
    with pytest.raises(RateLimitError, match="in 4 s"):
        guard.check(PATH, {"x-api-key": "slow"}, 6.5)
    guard.check(PATH, {"x-api-key": "slow"}, 10.0)


def test_access_of_one_of_several_processes_lets_its_part_pass() -> None:
    parts = [access(("slow", "8/s"), processes=2) for _ in range(2)]
    assert [sum(passed(part, "slow", [0.0] * 20)) for part in parts] == [4, 4]
    assert sum(passed(parts[0], "slow", [0.125 * step for step in range(1, 17)])) == 8


def test_access_shares_rates_by_the_processes_there_are() -> None:
    guard = access(("slow", "8/s"), processes=4)
    assert sum(passed(guard, "slow", [0.0] * 20)) == 2
    guard.share(1)
    assert sum(passed(guard, "slow", [0.125 * step for step in range(1, 17)])) == 16
    guard.share(8)
    assert sum(passed(guard, "slow", [10.0] * 20)) == 1
    assert guard.has_rates
    assert not access(("fast", None)).has_rates


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.9.8.7:80", "[::1]", "[::1]:8000"])
def test_local_access_takes_names_of_this_machine(host: str) -> None:
    Access(AccessSettings(is_local=True)).check(PATH, {"host": host}, 0)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.evil",
        "127.999.1.1",
        "[::2]",
        "",
        "localhost:",
    ],
)
def test_local_access_refuses_other_names(host: str) -> None:
    with pytest.raises(ForbiddenError, match="answers to localhost"):
        Access(AccessSettings(is_local=True)).check("/v2/health/live", {"host": host}, 0)
    Access(AccessSettings()).check(PATH, {"host": host}, 0)


def test_local_access_refuses_pages_of_other_origins() -> None:
    # Browsers send simple requests without a question first, and the server would do the work.
    host = {"host": "127.0.0.1:8000"}
    for origin in ("https://evil.example", "http://127.0.0.1:9000", "null", "http://127.0.0.1:8000.evil.example"):
        with pytest.raises(ForbiddenError, match="start the server with --cors"):
            Access(AccessSettings(is_local=True)).check(PATH, host | {"origin": origin}, 0)
        Access(AccessSettings(is_local=True, cors=origin if "//" in origin else "*")).check(
            PATH, host | {"origin": origin}, 0
        )
        Access(AccessSettings()).check(PATH, host | {"origin": origin}, 0)
    Access(AccessSettings(is_local=True)).check(PATH, host | {"origin": "http://127.0.0.1:8000"}, 0)
    # Browsers send names of hosts in lower case, and other programs as they are written.
    Access(AccessSettings(is_local=True)).check(PATH, {"host": "LocalHost:80", "origin": "http://localhost:80"}, 0)


def test_models_are_changed_with_a_key_or_by_this_machine_and_never_by_a_page_without_a_key() -> None:
    change, host = "/v2/repository/models/digits/unload", {"host": "127.0.0.1:8000"}
    page = host | {"origin": "https://a.example"}
    Access(AccessSettings(is_local=True)).check(change, host, 0)
    Access(AccessSettings(is_local=True)).check(change, host | {"origin": "http://127.0.0.1:8000"}, 0)
    for cors in ("*", "https://a.example"):
        with pytest.raises(ForbiddenError, match=r"a page of 'https://a.example' .* start the server with --keys"):
            Access(AccessSettings(is_local=True, cors=cors)).check(change, page, 0)
        # As HTTP/1.0 without the name of a host.
        with pytest.raises(ForbiddenError):
            Access(AccessSettings(is_local=True, cors=cors)).check(change, {"origin": "https://a.example"}, 0)
    with pytest.raises(ForbiddenError, match="start it with --keys to load and unload models"):
        Access(AccessSettings()).check(change, {}, 0)
    Access(AccessSettings()).check("/v2/repository/index", {}, 0)
    keys = (plain_key("secret"),)
    for settings in (AccessSettings(keys=keys), AccessSettings(keys=keys, is_local=True, cors="*")):
        Access(settings).check(change, page | {"x-api-key": "secret"}, 0)
        with pytest.raises(UnauthorizedError):
            Access(settings).check(change, host, 0)


def test_access_sends_cors_headers_to_the_one_origin() -> None:
    page, other = {"origin": "https://a.example"}, {"origin": "https://b.example"}
    asked = {"access-control-request-method": "POST"}
    guard = Access(AccessSettings(cors="https://a.example"))
    assert guard.cors(page)["access-control-allow-origin"] == "https://a.example"
    assert Access(AccessSettings(cors="https://A.example")).cors(page) == guard.cors(page)
    assert guard.cors(other) == guard.cors({}) == {"vary": "Origin"}
    assert guard.cors(page, "accept-encoding")["vary"] == "accept-encoding, Origin"
    assert (guard.has_cors, Access(AccessSettings()).has_cors) == (True, False)
    assert Access(AccessSettings(cors="*")).cors(other)["access-control-allow-origin"] == "*"
    assert guard.preflight("OPTIONS", page | asked) is not None
    for method, headers in (("OPTIONS", page), ("POST", page | asked), ("OPTIONS", other | asked)):
        assert guard.preflight(method, headers) is None


def test_new_keys_open_the_server_that_has_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    made = [new_key("alice", "100/s"), new_key("bob", None)]
    path.write_text("\n".join(line for _, line in made), encoding="utf-8")
    path.chmod(0o600)
    keys = read_keys(path)
    assert [(key.name, key.per_second, key.burst) for key in keys] == [
        ("alice", 100, 100),
        ("bob", math.inf, math.inf),
    ]
    guard = Access(AccessSettings(keys=keys))
    for secret, line in made:
        assert len(secret) > 40
        assert secret not in line
        guard.check(PATH, {"x-api-key": secret}, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no keys: add the line"),
        ("[1]", "has no keys"),
        ("{", "cannot be read"),
        ("bob: s3cret", "bob has no sha256: take the line that `zorse serve key bob` prints"),
        ("bob: {sha256: s3cret}", "bob.sha256: 64 hexadecimal digits are expected"),
        (f"bob: {{sha256: {'a' * 64}, rate: 5}}", "bob.rate: a rate is written as 100/s, 30/m or 5/h"),
        (f"bob: {{sha256: {'a' * 64}, rate: 0/s}}", "bob.rate: a rate is written"),
        (f"bob: {{sha256: {'a' * 64}, key: s3cret}}", "bob.key: Extra inputs are not permitted"),
        (f"a: {{sha256: {'a' * 64}}}\nb: {{sha256: {'a' * 64}}}", "two names have the same key"),
    ],
)
def test_read_keys_refuses_other_files_without_their_secrets(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_read_keys_warns_of_a_file_that_others_can_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(new_key("bob")[1], encoding="utf-8")
    path.chmod(0o644)
    read_keys(path)
    assert "is open to other users (mode 644): chmod 600" in caplog.text
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_keys(tmp_path / "none.yaml")


def test_keys_are_those_of_the_file_or_else_the_one_of_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(new_key("bob")[1], encoding="utf-8")
    path.chmod(0o600)
    environment = {**os.environ, "ZORSE_API_KEY": "k3y"}
    of_file = AccessSettings(keys_from=KeySource(file=str(path)), cors="*")
    of_variable = AccessSettings(keys_from=KeySource(variable="ZORSE_API_KEY"))
    assert [key.name for key in with_keys(of_file, environment).keys] == ["bob"]
    assert with_keys(of_variable, environment) == AccessSettings(keys=(plain_key("k3y"),))
    assert with_keys(of_variable, {"ZORSE_API_KEY": ""}) == with_keys(of_variable, {}) == AccessSettings()


def test_keys_of_a_node_that_lacks_them_are_a_clear_error(tmp_path: Path) -> None:
    of_variable = AccessSettings(keys_from=KeySource(variable="FACES_KEY"))
    assert with_keys_of_node(of_variable, {"FACES_KEY": "k3y"}) == AccessSettings(keys=(plain_key("k3y"),))
    for environment in ({}, {"FACES_KEY": ""}, {"ZORSE_API_KEY": "k3y"}):
        with pytest.raises(KeyFileError, match="the environment variable FACES_KEY is not set on this node"):
            with_keys_of_node(of_variable, environment)
    with pytest.raises(KeyFileError, match=r"keys.yaml cannot be read"):
        with_keys_of_node(AccessSettings(keys_from=KeySource(file=str(tmp_path / "keys.yaml"))), {})
    assert with_keys_of_node(AccessSettings(), {}) == AccessSettings()
