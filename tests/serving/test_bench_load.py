"""The load of `zorse bench serve` against a server whose delays are known."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest

from serving.bench.load import Closed, Load, Open
from serving.bench.processes import measure
from serving.bench.samples import Samples, merge
from serving.bench.sender import Target, send_load
from serving.errors import BenchError
from tests.serving.timed_server import Respond, answer, timed_server

REQUEST = b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 2\r\n\r\n{}"
STALL = 1.0


async def answer_at_once(number: int, body: bytes) -> bytes:
    return answer()


def send(respond: Respond, load: Load, requests: tuple[bytes, ...] = (REQUEST,)) -> Samples:
    with timed_server(respond) as server:
        return send_load(Target("127.0.0.1", server.port), requests, load, lambda: None)


def stalling() -> Respond:
    """Return a server that answers at once, but nothing during one stall that begins soon after the first request."""
    clock: Callable[[], float] = time.monotonic
    first: list[float] = []

    async def respond(number: int, body: bytes) -> bytes:
        first.append(clock())
        begin = first[0] + STALL / 4
        if begin <= clock() < begin + STALL:
            await asyncio.sleep(begin + STALL - clock())
        return answer()

    return respond


def test_closed_loop_hides_a_stall_and_open_loop_shows_it() -> None:
    closed = send(stalling(), Load(Closed(1), duration=2 * STALL, warm_up=0))
    arrivals = send(stalling(), Load(Open(200, "uniform"), duration=2 * STALL, warm_up=0))
    assert np.count_nonzero(closed.latency > STALL / 2) <= 2
    # Half of the stall's 200 requests start early enough to wait for half of it.
    assert np.count_nonzero(arrivals.latency > STALL / 2) >= 80
    assert np.median(arrivals.latency) > np.median(closed.latency)


def test_closed_loop_has_at_most_concurrency_requests_in_flight() -> None:
    in_flight, most = 0, 0

    async def respond(number: int, body: bytes) -> bytes:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.005)
        in_flight -= 1
        return answer()

    samples = send(respond, Load(Closed(3), duration=30, warm_up=0, requests=60))
    assert most == 3
    assert len(samples.status) in range(60, 63)  # each connection may have one more in flight
    assert samples.latency.min() >= 0.004


def test_open_loop_counts_what_exceeds_the_limit_in_flight() -> None:
    async def never(number: int, body: bytes) -> bytes:
        await asyncio.sleep(60)
        return answer()

    samples = send(never, Load(Open(100, "uniform", in_flight=5), duration=0.5, warm_up=0, timeout=1))
    assert len(samples.status) == 5
    assert samples.not_sent == pytest.approx(45, abs=1)
    assert samples.summary()["statuses"] == {"no answer": 5}
    assert samples.failures == {0: ("no answer within 1 s",)}


@pytest.mark.parametrize("warm_up", [0, 0.2])
def test_open_loop_of_an_impossible_rate_ends_on_time_and_counts_what_is_not_sent(warm_up: float) -> None:
    samples = send(answer_at_once, Load(Open(1e9), duration=0.3, warm_up=warm_up))
    assert samples.seconds == pytest.approx(0.3)
    assert len(samples.status) + samples.not_sent == pytest.approx(3e8, rel=0.01)


def test_open_loop_of_a_low_rate_ends_on_time() -> None:
    begin, rate = time.monotonic(), 0.01
    samples = send(answer_at_once, Load(Open(rate, "uniform"), duration=0.2, warm_up=0))
    assert time.monotonic() - begin < 1 / rate
    assert (len(samples.status), samples.not_sent) == (1, 0)


def test_samples_count_statuses_and_keep_the_first_bodies_of_failures() -> None:
    async def respond(number: int, body: bytes) -> bytes:
        return answer("503 Service Unavailable", b"full") if number % 2 else answer()

    samples = send(respond, Load(Closed(1), warm_up=0, requests=20))
    summary = samples.summary()
    assert summary["statuses"] == {"200": 10, "503": 10}
    assert summary["succeeded"] == 10
    assert summary["failures"] == [{"status": "503", "texts": ("full",)}]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(b"", "the server closed the connection without an answer"), (b"no HTTP\r\n\r\n", "the answer is not HTTP/1.1")],
)
def test_requests_without_an_answer_are_counted_and_the_load_continues(raw: bytes, reason: str) -> None:
    async def respond(number: int, body: bytes) -> bytes:
        return raw if number == 3 else answer()

    samples = send(respond, Load(Closed(1), warm_up=0, requests=10))
    assert samples.summary()["statuses"] == {"200": 9, "no answer": 1}
    assert samples.failures[0][0].startswith(reason)


def test_connection_that_the_server_closes_after_an_answer_is_replaced() -> None:
    async def respond(number: int, body: bytes) -> bytes:
        return answer("200 OK", b"", "Connection: close")

    with timed_server(respond) as server:
        target = Target("127.0.0.1", server.port)
        samples = send_load(target, [REQUEST], Load(Closed(1), warm_up=0, requests=5), lambda: None)
        assert server.connections == 5
    assert samples.summary()["statuses"] == {"200": 5}


def test_connections_are_kept_open() -> None:
    with timed_server(answer_at_once) as server:
        load = Load(Closed(2), warm_up=0, requests=50)
        send_load(Target("127.0.0.1", server.port), [REQUEST], load, lambda: None)
        assert server.connections == 2


def test_connections_that_wait_for_others_are_served_when_the_load_is_over() -> None:
    with timed_server(answer_at_once, most=2) as server:
        load = Load(Closed(3), duration=0.3, warm_up=0, timeout=20)
        samples = send_load(Target("127.0.0.1", server.port), [REQUEST], load, lambda: None)
    assert samples.summary()["statuses"].keys() == {"200"}
    assert samples.latency.max() >= 0.2


def test_more_connections_than_a_process_may_open_are_refused() -> None:
    with pytest.raises(BenchError, match=r"may open \d+ files, and .* need 2147483712: raise the limit"):
        measure(Target("127.0.0.1", 1), [REQUEST], Load(Closed(2**31)))


def test_dead_server_is_a_failure_of_every_request() -> None:
    with timed_server(answer_at_once) as server:
        port = server.port
    samples = send_load(Target("127.0.0.1", port), [REQUEST], Load(Closed(1), duration=0.3, warm_up=0), lambda: None)
    assert set(samples.status) == {0}
    assert samples.failures[0][0].startswith("no connection can be made")


def test_requests_of_the_warm_up_do_not_count() -> None:
    with timed_server(answer_at_once) as server:
        load = Load(Open(100, "uniform"), duration=0.2, warm_up=0.3)
        samples = send_load(Target("127.0.0.1", server.port), [REQUEST], load, lambda: None)
        assert len(server.requests) == pytest.approx(50, abs=1)
    assert len(samples.status) == pytest.approx(20, abs=1)
    assert samples.start.min() >= 0


def test_requests_are_sent_in_turn() -> None:
    with timed_server(answer_at_once) as server:
        requests = [REQUEST[:-2] + body for body in (b"aa", b"bb", b"cc")]
        send_load(Target("127.0.0.1", server.port), requests, Load(Closed(1), warm_up=0, requests=6), lambda: None)
        assert [body for _, body in server.requests][:6] == [b"aa", b"bb", b"cc"] * 2


def test_several_processes_share_the_load() -> None:
    with timed_server(answer_at_once) as server:
        load = Load(Closed(3), duration=30, warm_up=0, requests=31, processes=2)
        samples = measure(Target("127.0.0.1", server.port), [REQUEST], load)
        assert server.connections == 3
    assert len(samples.status) >= 31
    assert (np.diff(samples.ends) >= 0).all()


def test_shares_of_a_load_add_up() -> None:
    load = Load(Open(90, "uniform", in_flight=10), requests=10, processes=3)
    shares = [load.share(number) for number in range(3)]
    assert sum(share.requests or 0 for share in shares) == 10
    assert sum(share.loop.in_flight for share in shares if isinstance(share.loop, Open)) == 10
    times = [list(itertools.islice(share.loop.times(0), 3)) for share in shares if isinstance(share.loop, Open)]
    assert sorted(itertools.chain(*times)) == pytest.approx([number / 90 for number in range(9)])


def test_poisson_arrivals_have_the_rate_and_its_variance() -> None:
    gaps = np.diff(list(itertools.islice(Open(50).times(3), 20_000)))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)


def test_more_processes_than_connections_are_refused() -> None:
    with pytest.raises(BenchError, match="4 processes cannot share 3 connections"):
        Load(Closed(3), processes=4)


def test_merge_orders_by_the_end_and_adds_counts() -> None:
    def part(start: float, text: str) -> Samples:
        values = np.array([start, start + 2.0])
        return Samples(
            values, np.full(2, 0.5), np.zeros(2), np.array([200, 503]), np.array([1.0]), 4.0, 1, {503: (text,)}
        )

    merged = merge([part(0.0, "a"), part(1.0, "b")])
    assert merged.start.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert merged.not_sent == 2
    assert merged.failures == {503: ("a", "b")}
    assert merged.rate() == (2 + 2) / 4


def test_rate_counts_answers_to_requests_of_the_warm_up() -> None:
    async def respond(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.4)
        return answer()

    samples = send(respond, Load(Open(100, "uniform"), duration=0.5, warm_up=0.5))
    # Without them it would be that of a fifth of the time.
    assert samples.rate() == pytest.approx(100, rel=0.5)
    assert len(samples.status) == pytest.approx(50, abs=1)
