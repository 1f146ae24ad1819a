"""The command `zorse bench serve`."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli_models import KeyOption

if TYPE_CHECKING:
    from serving.bench.load import Load

MAX_RANGE = 10_000
"""The most values of a key's range."""


class ArrivalsName(StrEnum):
    """When requests of an open loop start."""

    POISSON = "poisson"
    UNIFORM = "uniform"


def bench_serve(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Argument(help="The model's name.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(help="The verb's keys as key=value; key=A..B takes A to B in turn.", show_default=False),
    ] = None,
    verb: Annotated[str, typer.Option(help="infer, or a verb such as generate.")] = "infer",
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Closed loop: connections that send one request after another.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, max=1e9, help="Open loop: requests per second.")] = None,
    arrivals: Annotated[ArrivalsName, typer.Option(help="Open loop: random arrivals or equal gaps.")] = (
        ArrivalsName.POISSON
    ),
    in_flight: Annotated[int, typer.Option(min=1, help="Open loop: the most requests in flight.")] = 1000,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds that are measured.")] = 10.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Stop after this many requests, if sooner.")] = None,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of the same load before.")] = 1.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a request is given up.")] = 60.0,
    processes: Annotated[int, typer.Option(min=1, help="Client processes that share the load.")] = 1,
    image: Annotated[list[Path] | None, typer.Option(help="An image file or folder to send; repeatable.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="HEIGHTxWIDTH of random images; repeatable.", show_default="256x256")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images or latents in each request of infer.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The seed of arrivals, tensors and images.")] = 0,
    api_key: KeyOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure a server under load.

    A closed loop (--concurrency, 8 by default) shows the highest rate. An open loop (--rate) shows the latency at a
    rate: its requests start on time however slow the answers are, and latencies count from the intended start.
    """
    from serving.bench.load import Closed, Load, Open
    from serving.bench.processes import measure
    from serving.bench.requests import Work, prepare_requests, split_target
    from serving.client import Client
    from serving.errors import BenchError
    from serving.retrying import ONCE

    if rate is not None and concurrency is not None:
        raise BenchError("--rate is an open loop and --concurrency a closed one: give one of them")
    loop = Closed(concurrency or 8) if rate is None else Open(rate, arrivals.value, in_flight)
    load = Load(loop, duration, warm_up, requests, timeout, processes, seed)
    work = Work(verb, _parse_keys(keys or []), _image_files(image or []), _parse_sizes(size), batch, seed)
    target = split_target(url)
    with Client(url, api_key, retry=ONCE) as client:
        metadata = client.metadata(model)
    samples = measure(target, prepare_requests(target, model, metadata, work, api_key), load)
    figures = {"url": url, "model": model, "verb": verb, **_describe_load(load), **samples.summary()}
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _print_figures(figures)
    if not figures["succeeded"]:
        failures = figures["failures"]
        reason = f"{failures[0]['status']}: {failures[0]['texts'][0]}" if failures else "none was sent"
        raise BenchError(f"no request succeeded: {reason}")


def _parse_keys(words: list[str]) -> dict[str, list[str]]:
    """Return the values of each key in turn."""
    keys: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in keys:
            raise typer.BadParameter(
                f"{word!r} is {'a second value of a key' if equals else 'not of the form key=value'}"
            )
        span = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", value)
        first, last = (int(number) for number in span.groups()) if span else (0, 0)
        if last - first >= MAX_RANGE:
            raise typer.BadParameter(f"{word!r} has more than {MAX_RANGE} values")
        keys[key] = [str(number) for number in range(first, last + 1)] if span else [value]
        if not keys[key]:
            raise typer.BadParameter(f"{word!r} is an empty range")
    return keys


def _parse_sizes(words: list[str] | None) -> list[tuple[int, int]]:
    sizes = []
    for word in words or ["256x256"]:
        numbers = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", word)
        if numbers is None:
            raise typer.BadParameter(f"{word!r} is not a size: give HEIGHTxWIDTH, such as 256x384")
        sizes.append((int(numbers[1]), int(numbers[2])))
    return sizes


def _image_files(paths: list[Path]) -> list[Path]:
    """Return the files of `paths`, and for folders the files in them."""
    from serving.errors import BenchError

    files: list[Path] = []
    for path in paths:
        found = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
        if not found:
            raise BenchError(f"{path} has no files")
        files += found
    return files


def _describe_load(load: Load) -> dict[str, Any]:
    from serving.bench.load import Closed

    loop = load.loop
    kind = (
        {"loop": "closed", "concurrency": loop.concurrency}
        if isinstance(loop, Closed)
        else {"loop": "open", "rate": loop.rate, "arrivals": loop.arrivals, "in_flight": loop.in_flight}
    )
    return {**kind, "processes": load.processes, "warm_up_seconds": load.warm_up}


def _print_figures(figures: dict[str, Any]) -> None:
    from zorse_common.tables import print_table

    load = f"{figures['concurrency']} connections" if figures["loop"] == "closed" else f"{figures['rate']:g} requests/s"
    typer.echo(
        f"{figures['model']} {figures['verb']}, {figures['loop']} loop, {load}: {figures['requests_per_second']:g} "
        f"successes/s in {figures['seconds']:g} s, {figures['requests']} requests, {figures['not_sent']} not sent"
    )
    rows = [
        [f"status {status}", str(figures["statuses"][status]), *(f"{value:.2f}" for value in latencies.values())]
        for status, latencies in figures["latency_ms_by_status"].items()
    ]
    lag = figures["send_lag_ms"]
    rows += [["client's lag", "", *(f"{value:.2f}" for value in lag.values())]] if lag else []
    print_table(["milliseconds", "requests", *(lag or {})], rows)
    for failure in figures["failures"] if figures["succeeded"] else []:
        typer.echo(f"{failure['status']}: {' '.join(failure['texts'][0].split())[:300]}")
