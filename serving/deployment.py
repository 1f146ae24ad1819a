"""The Ray Serve deployments of a model and of the gateway. Replicas answer HTTP themselves and batch internally."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client.core import Metric
from ray import serve
from ray.serve._private import replica as inner
from ray.serve.schema import ApplicationStatusOverview, LoggingConfig

from export.feeds import Feeds
from serving import artifacts
from serving.admission import Admission
from serving.application import Application
from serving.application_names import GATEWAY, GATEWAY_DEPLOYMENT, MODEL_DEPLOYMENT, application_name
from serving.asgi import gateway_app, model_app
from serving.batcher import Batcher
from serving.batching import Tensors
from serving.changes import Change, Changes
from serving.config import DRAIN_SECONDS, Batching, GatewaySettings, Limits, ModelSettings, Settings
from serving.errors import InternalError, ServingError, StartError
from serving.grpc.application import GrpcApplication
from serving.grpc.calls import Calls, GatewayCalls, ModelCalls
from serving.grpc.server import GrpcServer
from serving.keys import with_keys_of_node
from serving.load import LoadMeter
from serving.logs import REQUEST_ID, write_log
from serving.metrics import ModelMetrics
from serving.opening import load_checked_engine, measure_profile, useful
from serving.readiness import Readiness
from serving.readings import families_of, readings_of
from serving.replica_server import ReplicaServer, grpc_socket_folder, socket_folder
from serving.reporter import Reporter
from serving.reports import Report, Reports
from serving.served import Served
from serving.served_partners import ServedPartners
from serving.service import ModelService, batching_of
from serving.surroundings import Surroundings, in_folder

_LOGGER = logging.getLogger("serving")
T = TypeVar("T")
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
_NO_QUEUE_LIMIT = 100_000
"""So many that Ray never delays a request: the batcher's queue is full, and answers 503, long before."""


class _Replica:
    """Gives an HTTP application to Ray Serve, and to HAProxy on a Unix socket, if HAProxy is in front.

    If gRPC is served too, there is a second socket for it.
    """

    deployment_name: str
    _server: ReplicaServer | None = None
    _grpc_server: GrpcServer | None = None
    _reporter: Reporter | None = None

    def _serve(self, app: Application, calls: Calls, limits: Limits, folder: str | None) -> Application:
        """Serve `app` and `calls` on sockets in the server's `folder`; return `app`. It is called in the event loop."""
        # What there is now stays. Without it the collector has a hundredth of the objects to look at.
        gc.collect()
        gc.freeze()
        if self._reporter is not None:
            self._reporter.start()
        if folder is not None and (sockets := socket_folder(folder)).is_dir():
            replica = serve.get_replica_context().replica_id.unique_id
            self._server = ReplicaServer(app, sockets / replica)
            if (grpc_sockets := grpc_socket_folder(folder)).is_dir():
                application = GrpcApplication.beside(app, calls, limits.body)
                self._grpc_server = GrpcServer(application, grpc_sockets / replica)
        return app

    def check_health(self) -> None:
        """Raise RuntimeError if the server on the socket has ended. Ray Serve then replaces the replica."""
        if self._server is not None and self._server.has_ended:
            raise RuntimeError("the server of the replica has ended")

    async def close(self) -> None:
        """Answer the requests in flight and stop. No new ones arrive: Ray Serve has taken the replica from HAProxy."""
        servers = [server for server in (self._server, self._grpc_server) if server is not None]
        await asyncio.gather(*(server.close() for server in servers))
        if self._reporter is not None:
            await self._reporter.close()


class ModelReplica(_Replica):
    """One loaded model behind its HTTP application."""

    deployment_name = MODEL_DEPLOYMENT

    def __init__(self, settings: ModelSettings) -> None:
        _check_surroundings(settings, application_name(settings.name))
        settings = settings.model_copy(update={"access": with_keys_of_node(settings.access, os.environ)})
        artifact = artifacts.load(settings.artifact, settings.digest)
        # A server of one machine leaves it to the system how its models share the cores.
        cores = max(1, int(settings.cpus)) if settings.folder is None else None
        engine = load_checked_engine(artifact, settings.device, gpu_fraction=settings.gpu_fraction, cores=cores)
        batching = batching_of(artifact.manifest.interface, settings.batching)
        profile = measure_profile(engine, artifact, batching)
        metrics = ModelMetrics(settings.name, artifact.manifest.version, settings.folder)
        batcher = Batcher(engine.run, useful(batching, profile), inline=profile.inline, observer=metrics)
        admission = Admission()
        surroundings = in_folder(settings)
        if settings.folder is None:
            replica = serve.get_replica_context().replica_id.unique_id
            self._reporter = Reporter(replica, metrics.numbers, surroundings.served())
            surroundings = Surroundings(self._reporter.served, self._reporter.families)
        self._surroundings = surroundings
        partners = ServedPartners(surroundings.served, settings.name, settings.batching.timeout_s)
        self._service = ModelService(
            artifact.manifest, batcher.submit, settings.limits, admission, profile, metrics, partners
        )
        self._calls = ModelCalls(self._service, surroundings, partners)
        self._load = LoadMeter(admission, metrics.run_seconds, profile.batch_seconds)
        self._settings = settings
        write_log(settings.folder, settings.name, artifact.manifest.version)

    def __serve_build_asgi_app__(self) -> Application:
        settings = self._settings
        app = model_app(self._service, settings, self._surroundings)
        self._access = app.access
        return self._serve(app, self._calls, settings.limits, settings.folder)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load since the last call, for Ray Serve, which asks where the number of replicas changes.

        It is a coroutine so that it runs on the event loop. The rates of keys are shared by the replicas there are.
        """
        if self._access.has_rates:
            with contextlib.suppress(ServingError):  # the gateway of a cluster may be starting
                readings = readings_of(await self._surroundings.families())
                self._access.share(max(1, round(readings.total("zorse_replicas", model=self._settings.name))))
        return self._load.sample()._asdict()

    async def run_all(self, planned: list[Feeds], seconds: float) -> list[Tensors] | ServingError:
        """Run feeds for another replica, within `seconds`; return the error if that fails."""
        return await _result(self._service.run_all(planned, time.monotonic() + seconds))

    async def answer(self, method: str, content: bytes, seconds: float, request_id: str | None) -> bytes | ServingError:
        """Answer a call of gRPC that arrived in another replica, within `seconds`; return the error if that fails."""
        REQUEST_ID.set(request_id)
        admission = self._service.admission
        with admission.content() as received:
            received.keep(len(content))
            with admission.request():
                return await _result(self._calls.answer(method, content, time.monotonic() + seconds))


class GatewayReplica(_Replica):
    """The server-level routes."""

    deployment_name = GATEWAY_DEPLOYMENT

    def __init__(self, settings: GatewaySettings) -> None:
        _check_surroundings(settings, GATEWAY)
        self._settings = settings.model_copy(update={"access": with_keys_of_node(settings.access, os.environ)})
        write_log(settings.folder)
        self._reports, self._changes = Reports(), Changes()
        around = in_folder(settings)
        self._surroundings = Surroundings(around.served, around.families, self._changes.ask)
        if settings.folder is None:
            self._told = around.served()
            self._surroundings = Surroundings(lambda: self._told, self.families, self._changes.ask)
        self._answered: set[str] = set()
        self._readiness = Readiness(self._surroundings.served().names, self._not_ready)

    def __serve_build_asgi_app__(self) -> Application:
        app = gateway_app(self._settings, lambda: self._readiness.not_ready, self._surroundings)
        models = ServedPartners(self._surroundings.served, None, Batching().timeout_s)
        calls = GatewayCalls(self._settings, self._surroundings, lambda: self._readiness.not_ready, models)
        return self._serve(app, calls, self._settings.limits, self._settings.folder)

    async def report(self, report: Report) -> Served:
        """Take the report of another process of a cluster, and return of what is served what models have to know."""
        self._reports.take(report)
        return Served(names=self._told.names, partners=self._told.partners)

    async def tell(self, served: Served) -> None:
        """Take what is served from the process that follows the repository for a cluster."""
        self._told = served

    async def take_change(self, seconds: float) -> Change | None:
        """Return the next change of the running models that a client asks for: see `Changes.take`."""
        return await self._changes.take(seconds)

    async def answer_change(self, key: str, error: ServingError | None) -> None:
        """Answer a change of the running models: see `Changes.answer`."""
        self._changes.answer(key, error)

    async def close_changes(self) -> None:
        """Refuse all changes of the running models: the server stops."""
        self._changes.close()

    async def close(self) -> None:
        """See `_Replica.close`. Requests for changes are refused, which nobody would make any longer."""
        self._changes.close()
        await super().close()

    async def families(self) -> list[Metric]:
        """Return the metrics of all processes of a server on a cluster, as they were reported."""
        return families_of(self._reports.processes())

    def _not_ready(self, names: list[str]) -> list[str]:
        """Return the models that cannot answer. One that could can, as long as a replica runs: it may be updated."""
        names = self._surroundings.served().names
        waiting = not_running(names, self._answered, to_zero=self._settings.to_zero)
        self._answered = {name for name in names if name not in waiting}
        return waiting


async def _result(work: Coroutine[Any, Any, T]) -> T | ServingError:
    """Return the result of `work` for another replica, or its error."""
    try:
        return await work
    except ServingError as error:
        if not error.is_internal:
            return error
        _LOGGER.exception("a run for another model failed")
    except Exception:
        _LOGGER.exception("a run for another model failed")
    # The reason is in the log here: a cause does not travel to the other replica.
    return InternalError()


def _check_surroundings(settings: ModelSettings | GatewaySettings, name: str) -> None:
    """Check the `name` of the replica's application on a cluster. A server of one machine closes an open port.

    Raises:
        StartError: the application has another name, by which the others would not find it.
    """
    if settings.folder is not None:
        _close_inner_server()
    elif (given := serve.get_replica_context().app_name) != name:
        raise StartError(f"the application {given} must be called {name}")


def _close_inner_server() -> None:
    """Have Ray Serve open no port for this replica's server for calls from other replicas.

    That server takes pickled calls from anybody: Ray Serve binds it to every interface, and it checks no token. Without
    RAY_SERVE_USE_GRPC_BY_DEFAULT nothing calls it. Ray Serve starts it after the replica's constructor.

    Raises:
        StartError: this version of Ray Serve starts it in another way.
    """
    if not hasattr(inner, "add_port_to_grpc_server"):
        raise StartError("this version of Ray Serve starts its replicas in an unknown way: install the pinned one")
    inner.add_port_to_grpc_server = lambda server, address: 0


def not_running(names: list[str], started: Collection[str], *, to_zero: bool) -> list[str]:
    """Return those of the models `names` that cannot answer.

    Those `started` can while a replica runs; and with `to_zero` also while none does but one of a new version starts.
    """
    applications = serve.status().applications
    return [
        name
        for name in names
        if (one := applications.get(application_name(name))) is None
        or not (one.status == "RUNNING" or (name in started and _may_answer(one, to_zero=to_zero)))
    ]


def _may_answer(application: ApplicationStatusOverview, *, to_zero: bool) -> bool:
    if to_zero and application.status == "DEPLOYING":
        return True
    return any("RUNNING" in deployment.replica_states for deployment in application.deployments.values())


def _version(arguments: Sequence[Settings]) -> str:
    """Return a digest of the arguments of a replica, without the other models, of which it learns while it runs."""
    content = [one.model_dump_json(exclude={"models", "partner"}) for one in arguments]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()


async def _close(replica: _Replica) -> None:
    await replica.close()


def application(replica: type[_Replica], options: Mapping[str, Any], *arguments: Settings) -> serve.Application:
    """Return an application of processes `replica(*arguments)`.

    `options` are those of the deployment: `num_replicas`, and in `ray_actor_options` the resources of each process.
    """
    # Ray Serve awaits the destructor of a replica that it stops. Elsewhere nothing would await it.
    closing = type(replica.__name__, (replica,), {"__del__": _close})
    deployment = serve.deployment(
        serve.ingress()(closing),
        name=replica.deployment_name,
        logging_config=LOGGING,
        max_ongoing_requests=_NO_QUEUE_LIMIT,
        # A graph that fails to load fails again the second time.
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        graceful_shutdown_wait_loop_s=0.2,
        # How long Ray Serve may take to see that a process has died; by default 10 s.
        health_check_period_s=1.0,
        **options,
    )
    # Replicas of the same version stay when their application is run again. By default each run is another version.
    deployment._version = _version(arguments)
    return deployment.bind(*arguments)
