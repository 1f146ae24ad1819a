"""HAProxy's configuration: Ray's real one, rewritten and checked by the real HAProxy."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest

from serving.config import Limits, ServerSettings
from serving.errors import StartError, UnavailableError
from serving.haproxy import check_config, find_haproxy, rendered_by_ray, threads, wrap_haproxy
from serving.haproxy_config import Front, rewrite, unavailable_answer
from serving.haproxy_text import REQUEST_ID, RETRY_SECONDS, ConfigError
from serving.http import error_response
from serving.logs import log_file
from serving.ports import free_port
from tests.serving.live import live_server

FRONT = Front("127.0.0.1", 8000, 2**20, "/tmp/unavailable.http", "/tmp/r", "/tmp/log.jsonl", 0, "/tmp/g")
SETTINGS = ServerSettings(repository="r", port=8123)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered_by_ray(str(tmp_path_factory.mktemp("ray")))


@pytest.fixture
def haproxy() -> str:
    binary = find_haproxy()
    if binary is None:
        pytest.skip("HAProxy is not installed")
    return binary


@contextmanager
def running(program: str, config: Path) -> Iterator[None]:
    """Run HAProxy while the block runs."""
    pid = config.with_name("pid")
    # The command ends when HAProxy listens.
    subprocess.run([program, "-D", "-p", str(pid), "-f", str(config)], check=True)
    try:
        yield
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)


@pytest.fixture(scope="module")
def front(rendered: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Yield the address of the real front of the model `digits`, which is in this process."""
    binary = find_haproxy()
    if binary is None:
        pytest.skip("HAProxy is not installed")
    folder = tmp_path_factory.mktemp("front")
    port = free_port()
    wrap_haproxy(binary, SETTINGS.model_copy(update={"port": port, "limits": Limits(bytes=1000)}), str(folder))
    with live_server() as url:
        text = re.sub("127.0.0.1:1 check.*", f"{url.removeprefix('http://')} no-check", rendered)
        text = text.replace("path_beg /", "path_beg /v2/models/digits/")
        config = folder / "haproxy.cfg"
        config.write_text("".join(f"{line}\n" for line in text.splitlines() if " fallback " not in line))
        with running(str(folder / "haproxy"), config):
            yield "127.0.0.1", port


def sent(address: tuple[str, int], head: str) -> tuple[int, str, bytes]:
    """Send the head of a request: the status, the media type and the body of the answer. The rest is never sent."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(f"{head}\r\nHost: 127.0.0.1\r\n\r\n".encode())
        with HTTPResponse(connection) as response:
            response.begin()
            return response.status, response.headers.get_content_type(), response.read()


def test_front_refuses_a_body_that_is_too_large_before_it_is_sent(front: tuple[str, int]) -> None:
    limit = Limits(bytes=1000).body
    head = "POST /v2/models/digits/infer HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: "
    status, media_type, body = sent(front, f"{head}{limit + 1}")
    assert (status, media_type, json.loads(body)["code"]) == (413, "application/json", "too_large")
    with socket.create_connection(front, timeout=30) as connection:
        connection.sendall(f"{head}{limit}\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")


@pytest.mark.parametrize("name", ["digits", "%64igits", "digit%73", "%64%69%67%69%74%73"])
def test_front_finds_a_model_by_its_encoded_name(name: str, front: tuple[str, int]) -> None:
    status, _, body = sent(front, f"GET /v2/models/{name}/ready HTTP/1.1")
    assert (status, json.loads(body)["name"]) == (200, "digits")


@pytest.mark.parametrize("method", ["get", "BREW", "PROPFIND"])
def test_front_refuses_unknown_methods(method: str, front: tuple[str, int]) -> None:
    status, media_type, body = sent(front, f"{method} /v2/models/digits HTTP/1.1")
    assert (status, media_type, json.loads(body)["code"]) == (501, "application/json", "unsupported")


def test_front_answers_the_options_of_the_whole_server(front: tuple[str, int]) -> None:
    assert sent(front, "OPTIONS * HTTP/1.1")[0] == 204


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("CONNECT example.com:80 HTTP/1.1", 400),
        ("POST /v2/models/digits/infer HTTP/1.1\r\nTransfer-Encoding: gzip", 400),
        ("POST /v2/models/digits/infer HTTP/1.1\r\nTransfer-Encoding: gzip, chunked", 422),
        ("POST /v2/models/digits/infer HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400),
    ],
)
def test_front_refuses_what_is_no_request_of_http(head: str, expected: int, front: tuple[str, int]) -> None:
    assert sent(front, head)[0] == expected


def test_rewrite_takes_offers_of_other_protocols_from_requests(rendered: str) -> None:
    """The parser of a replica would take the body of such a request for the other protocol."""
    frontend = rewrite(rendered, FRONT).partition("frontend http_frontend\n")[2].partition("\nbackend ")[0]
    assert "    http-request del-header upgrade\n" in frontend


def test_rewrite_keeps_only_the_public_address(rendered: str) -> None:
    binds = [line.strip() for line in rewrite(rendered, FRONT).splitlines() if line.strip().startswith("bind ")]
    assert rendered.count("bind ") == 3
    assert binds == ["bind 127.0.0.1:8000 proto h1"]


def test_rewrite_protects_the_server(rendered: str) -> None:
    lines = [line.strip() for line in rewrite(rendered, FRONT).splitlines()]
    assert any(line.startswith("stats socket ") and " mode 600 " in line for line in lines)
    assert not any(line.startswith("log 1") or "mode 666" in line for line in lines)
    assert {"timeout http-request 10s", "timeout client 20s", "option abortonclose"} <= set(lines)
    assert "http-request set-header x-request-disconnect-disabled ?1" in lines
    closed = next(index for index, line in enumerate(lines) if "path,url_dec -m beg /-/" in line)
    assert "status 404" in lines[closed]
    # The first rule that matches answers.
    assert closed < min(index for index, line in enumerate(lines) if "if routes" in line or "if healthcheck" in line)
    assert lines[lines.index("backend http-model") + 1] == "option http-buffer-request"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": "abc-1.2:3"}, "abc-1[.]2:3"),
        ({"X-Request-Id": 'a"b c\\d'}, "a[?]b[?]c[?]d"),
        ({"X-Request-Id": "y" * 200}, "y{128}"),
        ({"X-Request-Id": ""}, "[0-9a-f-]{36}"),
        ({}, "[0-9a-f-]{36}"),
    ],
)
def test_haproxy_gives_requests_and_answers_an_id(
    headers: dict[str, str], expected: str, haproxy: str, tmp_path: Path
) -> None:
    rules = [
        *REQUEST_ID,
        '    http-request return status 200 content-type text/plain lf-string "%[req.hdr(x-request-id)]"',
    ]
    limits = "    timeout client 9s\n    timeout server 9s\n    timeout connect 9s"
    front = f"defaults\n    mode http\n{limits}\nfrontend test\n    bind unix@{tmp_path}/s"
    config = tmp_path / "haproxy.cfg"
    config.write_text("\n".join([front, *rules, ""]), encoding="utf-8")
    with running(haproxy, config), httpx.Client(transport=httpx.HTTPTransport(uds=f"{tmp_path}/s")) as client:
        response = client.get("http://server/", headers=headers)
    assert re.fullmatch(expected, response.text)
    assert response.headers.get_list("x-request-id") == [response.text]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "::"])
@pytest.mark.parametrize("grpc_port", [None, 8124])
def test_haproxy_takes_the_rewritten_configuration(
    host: str, grpc_port: int | None, haproxy: str, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"host": host, "grpc_port": grpc_port})
    variables = wrap_haproxy(haproxy, settings, str(tmp_path))
    assert Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"]).parent == tmp_path
    check_config(str(tmp_path))


def test_program_becomes_haproxy_with_the_arguments_of_ray(tmp_path: Path, rendered: str) -> None:
    wrap_haproxy("/bin/echo", SETTINGS, str(tmp_path))
    file = tmp_path / "haproxy.cfg"
    file.write_text(rendered)
    words = [tmp_path / "haproxy", "-db", "-f", file, "-sf", "17"]
    assert subprocess.check_output(words, text=True) == f"-db -f {file} -sf 17\n"
    paths = (f"{tmp_path}/unavailable.http", f"{tmp_path}/r", f"{tmp_path}/log.jsonl")
    front = Front("127.0.0.1", 8123, SETTINGS.limits.body, *paths, 0, f"{tmp_path}/g")
    assert file.read_text() == rewrite(rendered, front)


def test_program_logs_that_haproxy_has_died_and_no_reload(tmp_path: Path, rendered: str) -> None:
    wrap_haproxy("/bin/true", SETTINGS, str(tmp_path))
    file, lines = tmp_path / "haproxy.cfg", []
    for own in ((), ("-sf", "17"), ()):
        file.write_text(rendered)
        subprocess.run([tmp_path / "haproxy", "-db", "-f", file, *own], check=True)
        lines.append(log_file(tmp_path).read_text().splitlines() if log_file(tmp_path).exists() else [])
    assert lines[:2] == [[], []]
    (line,) = map(json.loads, lines[2])
    assert line.keys() == {"time", "level", "message"}
    assert line["message"].startswith("HAProxy has died and is started again")


@pytest.mark.parametrize(
    "line",
    [
        "stats socket",
        "timeout client ",
        "errorfile 503",
        "bind 127.0.0.1",
        "http-request return status 404",
        "backend default_backend",
        "frontend http_frontend",
        "frontend prometheus",
        "listen stats",
        "    log 1",
    ],
)
def test_rewrite_refuses_a_configuration_without_a_line_that_it_changes(line: str, rendered: str) -> None:
    kept = [other for other in rendered.splitlines() if line not in other or "use_backend" in other]
    assert len(kept) < len(rendered.splitlines())
    with pytest.raises(ConfigError):
        rewrite("\n".join(kept), FRONT)


def test_start_fails_with_one_line_when_haproxy_refuses(tmp_path: Path) -> None:
    wrap_haproxy("/bin/false", SETTINGS, str(tmp_path))
    with pytest.raises(StartError, match=r"HAProxy does not start with this version of Ray \(.*\): use --proxy ray"):
        check_config(str(tmp_path))


def test_answer_of_haproxy_without_replicas_is_the_one_of_replicas() -> None:
    head, body = unavailable_answer().split("\r\n\r\n")
    response = error_response(UnavailableError())
    assert json.loads(body) == json.loads(response.body)
    assert f"retry-after: {RETRY_SECONDS}" in head
    assert response.headers["retry-after"] == str(RETRY_SECONDS)


def test_haproxy_gets_few_threads() -> None:
    assert 1 <= threads() <= 4


def test_rewrite_adds_grpc_on_the_same_host(rendered: str) -> None:
    text = rewrite(rendered, FRONT._replace(grpc_port=8001))
    binds = [line.strip() for line in text.splitlines() if line.strip().startswith("bind ")]
    assert binds == ["bind 127.0.0.1:8000 proto h1", "bind 127.0.0.1:8001 proto h2"]
    assert text.startswith(rewrite(rendered, FRONT))


def test_rewrite_refuses_to_add_grpc_where_the_path_of_a_model_is_not_stated(rendered: str) -> None:
    text = rendered.replace("acl is_http-model path /\n", "acl is_http-model path_reg /\n")
    assert text != rendered
    rewrite(text, FRONT)
    with pytest.raises(ConfigError, match="the path of backend 'http-model' is not stated"):
        rewrite(text, FRONT._replace(grpc_port=8001))


def test_replica_with_a_socket_is_called_there_and_checked_at_its_port(rendered: str) -> None:
    text = rendered.replace(
        "    server replica 127.0.0.1:1 check", "    server SERVE_REPLICA_m-m-ab12 127.0.0.1:1 check"
    )
    assert text != rendered
    lines = rewrite(text, FRONT, ["ab12", "cd34"]).splitlines()
    (line,) = (line.strip() for line in lines if "SERVE_REPLICA" in line)
    assert line.startswith("server SERVE_REPLICA_m-m-ab12 unix@/tmp/r/ab12 check addr 127.0.0.1 port 1 observe")
    (line,) = (line.strip() for line in rewrite(text, FRONT, ["cd34"]).splitlines() if "SERVE_REPLICA" in line)
    assert line.startswith("server SERVE_REPLICA_m-m-ab12 127.0.0.1:1 check")
