"""Loads a server with wrk, which posts one request again and again over `concurrency` connections."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.servers import Post, ServerFailedError

TIMEOUT_SECONDS = 120
_SCRIPT = """
local file = io.open({body}, "rb")
wrk.method, wrk.body, wrk.headers = "POST", file:read("*a"), {headers}
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\nFIGURES {{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def warm_up(url: str, post: Post, concurrency: int, seconds: int = 1) -> None:
    """Load the server without measuring.

    Raises:
        ServerFailedError: wrk is missing or fails.
    """
    _figures(url, post, concurrency, seconds)


def run_wrk(url: str, post: Post, concurrency: int, seconds: int) -> dict[str, Any]:
    """Return requests per second, p50 and p99 in milliseconds, the number of requests, and that of errors, which
    are also other statuses.

    Raises:
        ServerFailedError: wrk is missing or fails, or there was no answer.
    """
    figures = _figures(url, post, concurrency, seconds)
    if figures["requests"] == 0:
        raise ServerFailedError(f"{post.path} answered no request within {seconds} s at concurrency {concurrency}")
    return {
        "requests_per_second": (figures["requests"] - figures["errors"]) / figures["seconds"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "errors": figures["errors"],
        "requests": figures["requests"],
    }


def _figures(url: str, post: Post, concurrency: int, seconds: int) -> dict[str, Any]:
    """Run wrk and return what its script prints."""
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "script.lua"
        body.write_bytes(post.body)
        headers = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in post.headers.items())
        script.write_text(_SCRIPT.format(body=json.dumps(str(body)), headers=f"{{{headers}}}"), encoding="utf-8")
        command = [
            "wrk",
            "-t1",
            f"-c{concurrency}",
            f"-d{seconds}s",
            f"--timeout={TIMEOUT_SECONDS}s",
            "-s",
            str(script),
        ]
        try:
            output = subprocess.run([*command, url + post.path], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServerFailedError(f"wrk failed: {error}") from error
    figures: dict[str, Any] = json.loads(output.partition("FIGURES ")[2])
    return figures
