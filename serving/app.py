"""The server: a Ray of its own with one Ray Serve application a model, and the gateway."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Literal

from serving import artifacts
from serving.config import DRAIN_SECONDS, ModelSettings, ServerSettings
from serving.engine import cpu_cores, resolve_device
from serving.errors import StartError
from serving.memory import check_memory
from serving.ports import haproxy_environment
from serving.schemas import ModelSummary
from zorse_common.own_ray import environment, ray_folder
from zorse_common.signals import stop_requested

_LARGEST_SHARE = 0.1
"""Of a core, what a replica reserves at most. Ray places by that and limits nothing: two cores hold many models."""
_SMALLEST = 1e-4
"""What Ray can reserve at least of a resource."""


@contextmanager
def running(settings: ServerSettings) -> Iterator[list[ModelSummary]]:
    """Serve every model of the repository on a Ray of our own while the block runs.

    Raises:
        ArtifactError: the repository is empty or an artifact is not sound; nothing was started.
        StartError: the address is taken or may not be used, or a model does not start.
    """
    _check_address(settings)
    found = artifacts.find(settings.repository, settings.alias)
    for name, reason in found.skipped.items():
        logging.getLogger(__name__).warning("skipped %s of %s: %s", name, settings.repository, reason)
    models = {name: artifacts.load(folder) for name, folder in found.models.items()}
    check_memory(settings.replicas, [artifact.model.stat().st_size for artifact in models.values()])
    summaries = [
        ModelSummary(name=n, version=a.manifest.version, kind=a.manifest.interface.kind) for n, a in models.items()
    ]
    plans = _plans(settings, {name: artifact.path for name, artifact in models.items()})
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(ray_folder())
        variables = _ray_environment(settings.high_throughput)
        if settings.high_throughput:
            replicas = settings.replicas * len(plans) + 1
            variables |= stack.enter_context(haproxy_environment(folder, replicas))
        stack.enter_context(environment(variables))
        stack.callback(_stop)
        _start(settings, plans, summaries, folder)
        yield summaries


class _StoppedError(BaseException):
    """A signal came while the server was starting."""


def serve_repository(settings: ServerSettings, announce: Callable[[list[ModelSummary]], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is told once everything is ready.

    Requests in flight are answered, and new ones refused, before this returns. A second Ctrl-C ends at once.

    Raises:
        ArtifactError, StartError: as `running`.
        KeyboardInterrupt: on the second Ctrl-C.
    """
    ready = False

    def abandon() -> None:
        if not ready:
            raise _StoppedError

    try:
        with stop_requested(abandon) as stop, running(settings) as models:
            ready = True
            announce(models)
            stop.wait()
    except (_StoppedError, SystemExit):
        # The latter by Ray's own handler, which stands while Ray starts.
        return


def _check_address(settings: ServerSettings) -> None:
    if settings.host not in {"127.0.0.1", "::1", "localhost"} or settings.high_throughput:
        what = "high-throughput mode listens" if settings.high_throughput else f"{settings.host} is"
        if not settings.api_key and not settings.insecure:
            raise StartError(f"{what} open to other machines: give --api-key (or ZORSE_API_KEY), or say --insecure")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose another --port or --host"
            ) from error


def _plans(settings: ServerSettings, paths: dict[str, Path]) -> list[ModelSettings]:
    threads = max(1, cpu_cores() // (len(paths) * settings.replicas))
    return [
        ModelSettings(
            name=name,
            artifact=str(path.resolve()),
            device=resolve_device(settings.device),
            threads=threads,
            batching=settings.batching,
            limits=settings.limits,
            api_key=settings.api_key,
        )
        for name, path in paths.items()
    ]


def _ray_environment(high_throughput: bool) -> dict[str, str]:
    """Ray reads these when its processes start.

    HAProxy is ten times as fast as Ray's own proxy and binds the replicas' ports on every interface, so it is asked
    for, not given. Without it the replicas need no ports of their own, which throughput mode would open. Ray's inner
    ports are on every interface whatever we ask: the token is what guards them.
    """
    flag = str(int(high_throughput))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": flag,
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": flag,
        # HAProxy needs a moment to send what is new elsewhere; by default a stop takes half a minute.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.2",
        # Workers must find this package where it is not installed but run from a checkout.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }


def _start(settings: ServerSettings, plans: list[ModelSettings], models: list[ModelSummary], folder: str) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from serving.deployment import GATEWAY, gateway_application, model_application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address="local",
            namespace="zorse",
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            object_store_memory=128 * 2**20,
            _temp_dir=folder,
        )
    except Exception as error:
        raise StartError(f"Ray does not start here ({_reason(str(error))}): try again, and see zorse doctor") from error
    if threading.current_thread() is threading.main_thread():
        # Ray puts its own in their place, which abort the process.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=settings.host, port=settings.port),
        logging_config=quiet,
    )
    held = ray.cluster_resources()
    count = len(plans) * settings.replicas
    resources = replica_resources(plans[0].device, count, int(held.get("CPU", 0)), int(held.get("GPU", 0)))
    targets = [
        serve.RunTarget(
            model_application(plan, settings.replicas, resources),
            name=plan.name,
            route_prefix=f"/v2/models/{plan.name}",
            logging_config=quiet,
        )
        for plan in plans
    ]
    gateway = gateway_application(models, settings.api_key, {"num_cpus": resources["num_cpus"]})
    targets.append(serve.RunTarget(gateway, name=GATEWAY, route_prefix="/", logging_config=quiet))
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        # Ray's exception names the application alone; why it failed stands in the status.
        deployments = [one for entry in serve.status().applications.values() for one in entry.deployments.values()]
        raise StartError(_reason("\n".join([str(error), *(one.message for one in deployments)]))) from error


def replica_resources(device: Literal["cpu", "cuda"], replicas: int, cpus: int, gpus: int) -> dict[str, float]:
    """Return what each of `replicas` equal processes reserves of Ray, such that all of them and the gateway are placed.

    Raises:
        StartError: CUDA was asked for and there is no GPU.
    """
    if device == "cuda" and not gpus:
        raise StartError("CUDA was asked for and Ray sees no GPU: ask for --device cpu")
    reserved = {"num_cpus": min(_LARGEST_SHARE, _rounded(cpus / (replicas + 1)))}
    if device == "cuda":
        # A replica's share is of one GPU: what counts is how many the fullest GPU holds.
        reserved["num_gpus"] = _rounded(1 / math.ceil(replicas / gpus))
    return reserved


def _rounded(share: float) -> float:
    """Round down to what Ray can reserve."""
    return max(_SMALLEST, round(math.floor(share / _SMALLEST) * _SMALLEST, 4))


def _reason(text: str) -> str:
    """The line of a failed start that names our own error, without Ray's traceback around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line.split(": ", 1)[1] for line in lines if line.startswith("serving.errors.") and ": " in line]
    return (ours or lines)[-1]


def _stop() -> None:
    """Answer the requests in flight, then end Ray Serve and Ray, each within a time even where Ray is damaged."""
    import ray

    if not ray.is_initialized():
        return
    # Ray prints that the controller, which it has just ended itself, has failed.
    with redirect_stdout(io.StringIO()):
        try:
            _within(DRAIN_SECONDS + 10, _end_serve)
        finally:
            _within(10, ray.shutdown)


def _end_serve() -> None:
    from ray import serve

    # To shut Ray Serve down ends the proxy first, and what it has in flight with it.
    for name in serve.status().applications:
        serve.delete(name, _blocking=False)
    while serve.status().applications:
        time.sleep(0.1)
    serve.shutdown()


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Do `work` in a thread, and leave it there when it takes longer than `seconds`; what it raises is dropped."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
