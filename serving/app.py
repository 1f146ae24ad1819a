"""The server: a local Ray cluster with one Ray Serve application for each model, and the gateway application."""

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

from serving import artifacts
from serving.config import (
    DRAIN_SECONDS,
    AccessSettings,
    Device,
    GatewaySettings,
    ModelSettings,
    ModelSummary,
    ServerSettings,
)
from serving.cuda import gpu_fraction
from serving.engine import resolve_device
from serving.errors import StartError
from serving.memory import check_memory
from serving.ports import haproxy_environment
from zorse_common.private_ray import ray_environment, ray_folder
from zorse_common.signals import stop_requested

_LARGEST_SHARE = 0.1
"""The most cores that a replica reserves. Ray uses it for placement only, so that two cores can serve many models."""
_SMALLEST = 1e-4
"""The smallest amount of a resource that Ray can reserve."""


@contextmanager
def running_server(settings: ServerSettings) -> Iterator[list[ModelSummary]]:
    """Serve every model of the repository on a local Ray cluster while the block runs.

    Raises:
        ArtifactError: the repository is empty or an artifact is not sound; nothing was started.
        StartError: the address is in use or not permitted, or a model does not start.
    """
    _check_address(settings)
    listing = artifacts.find(settings.repository, settings.alias)
    for name, reason in listing.skipped.items():
        logging.getLogger(__name__).warning("skipped %s of %s: %s", name, settings.repository, reason)
    models = {name: artifacts.load(folder.uri) for name, folder in listing.models.items()}
    check_memory(settings.replicas, [artifact.manifest.nbytes for artifact in models.values()])
    summaries = [
        ModelSummary(name=n, version=a.manifest.version, kind=a.manifest.interface.kind) for n, a in models.items()
    ]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(ray_folder())
        paths = {name: artifact.path for name, artifact in models.items()}
        settings_of_models = _model_settings(settings, paths, folder)
        variables = _ray_environment(settings.high_throughput)
        if settings.high_throughput:
            replicas = settings.replicas * len(settings_of_models) + 1
            variables |= stack.enter_context(haproxy_environment(folder, replicas))
        stack.enter_context(ray_environment(variables))
        stack.callback(_stop_applications)
        _start_applications(settings, settings_of_models, summaries, folder)
        yield summaries


class _StoppedError(BaseException):
    """The process received a signal while the server was starting."""


def serve_repository(settings: ServerSettings, announce: Callable[[list[ModelSummary]], None]) -> None:
    """Serve until SIGINT or SIGTERM. `announce` is called with the models once all of them are ready.

    After the signal new requests are refused, and requests in flight are answered. A second Ctrl-C ends at once.

    Raises:
        ArtifactError, StartError: as `running_server`.
        KeyboardInterrupt: on the second Ctrl-C.
    """
    ready = False

    def abandon() -> None:
        if not ready:
            raise _StoppedError

    try:
        with stop_requested(abandon) as stop, running_server(settings) as models:
            ready = True
            announce(models)
            stop.wait()
    except (_StoppedError, SystemExit):
        # Ray's own signal handler, which is installed while Ray starts, raises SystemExit.
        return


def _check_address(settings: ServerSettings) -> None:
    if not _is_local(settings) or settings.high_throughput:
        subject = "high-throughput mode listens" if settings.high_throughput else f"{settings.host} is"
        if not settings.access.keys and not settings.insecure:
            raise StartError(f"{subject} open to other machines: give --keys or ZORSE_API_KEY, or say --insecure")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose another --port or --host"
            ) from error


def _is_local(settings: ServerSettings) -> bool:
    return settings.host in {"127.0.0.1", "::1", "localhost"}


def _access(settings: ServerSettings) -> AccessSettings:
    return settings.access.model_copy(update={"is_local": _is_local(settings)})


def _model_settings(settings: ServerSettings, paths: dict[str, Path], folder: str) -> list[ModelSettings]:
    return [
        ModelSettings(
            name=name,
            artifact=str(path.resolve()),
            device=resolve_device(settings.device),
            batching=settings.batching,
            access=_access(settings),
            replicas=settings.replicas,
            folder=folder,
            access_log=settings.access_log,
        )
        for name, path in paths.items()
    ]


def _ray_environment(high_throughput: bool) -> dict[str, str]:
    """Return the environment variables that Ray reads when its processes start.

    HAProxy is ten times as fast as Ray's own proxy, but binds the replicas' ports on every interface; so it is off by
    default. Without it the replicas listen on no ports. Ray's inner ports are on every interface in any case; the token
    protects them.
    """
    flag = str(int(high_throughput))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": flag,
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": flag,
        # HAProxy needs a moment to route new requests elsewhere. By default a stop takes half a minute.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.2",
        # Workers must be able to import this package from a checkout, where it is not installed.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }


def _start_applications(
    settings: ServerSettings, settings_of_models: list[ModelSettings], models: list[ModelSummary], folder: str
) -> None:
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    from serving.deployment import GATEWAY, LOGGING, GatewayReplica, ModelReplica, run_target

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
        # Ray replaces them by handlers that abort the process.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=settings.host, port=settings.port),
        logging_config=LOGGING,
    )
    cluster = ray.cluster_resources()
    count = len(settings_of_models) * settings.replicas
    resources = replica_resources(
        settings_of_models[0].device, count, int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    )
    options = {"num_replicas": settings.replicas, "ray_actor_options": resources}
    fraction = {"gpu_fraction": resources.get("num_gpus", 1.0)}
    targets = [
        run_target(ModelReplica, m.name, f"/v2/models/{m.name}", options, m.model_copy(update=fraction))
        for m in settings_of_models
    ]
    gateway = GatewaySettings(
        models=tuple(models), access=_access(settings), folder=folder, access_log=settings.access_log
    )
    options = {"num_replicas": 1, "ray_actor_options": {"num_cpus": resources["num_cpus"]}}
    targets.append(run_target(GatewayReplica, GATEWAY, "/", options, gateway))
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        # Ray's exception only names the application; the reason is in the status of its deployments.
        deployments = [one for entry in serve.status().applications.values() for one in entry.deployments.values()]
        raise StartError(_reason("\n".join([str(error), *(one.message for one in deployments)]))) from error


def replica_resources(device: Device, replicas: int, cpus: int, gpus: int) -> dict[str, float]:
    """Return the Ray resources of each of `replicas` equal processes, so that all of them and the gateway fit.

    Raises:
        StartError: `device` is CUDA and there is no GPU.
    """
    if device == "cuda" and not gpus:
        raise StartError("CUDA was requested and Ray sees no GPU: use --device cpu")
    reserved = {"num_cpus": min(_LARGEST_SHARE, _rounded(cpus / (replicas + 1)))}
    if device == "cuda":
        reserved["num_gpus"] = _rounded(gpu_fraction(replicas, gpus))
    return reserved


def _rounded(share: float) -> float:
    """Round down to an amount that Ray can reserve."""
    return max(_SMALLEST, round(math.floor(share / _SMALLEST) * _SMALLEST, 4))


def _reason(text: str) -> str:
    """Return the line of a failed start that has an error of this stage, without Ray's traceback around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own_errors = [line.split(": ", 1)[1] for line in lines if line.startswith("serving.errors.") and ": " in line]
    return (own_errors or lines)[-1]


def _stop_applications() -> None:
    """Answer the requests in flight, then end Ray Serve and Ray. Each step has a time limit, in case Ray hangs."""
    import ray

    if not ray.is_initialized():
        return
    # Ray prints that the controller has failed, although Ray itself has just ended it.
    with redirect_stdout(io.StringIO()):
        try:
            _run_within(DRAIN_SECONDS + 10, _end_serve)
        finally:
            _run_within(10, ray.shutdown)


def _end_serve() -> None:
    from ray import serve

    # A shutdown of Ray Serve ends the proxy first, and with it the requests in flight: delete the applications before.
    for name in serve.status().applications:
        serve.delete(name, _blocking=False)
    while serve.status().applications:
        time.sleep(0.1)
    serve.shutdown()


def _run_within(seconds: float, work: Callable[[], object]) -> None:
    """Do `work` in a thread, and return after `seconds` even if it has not ended. Its exceptions are dropped."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
