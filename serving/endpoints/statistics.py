"""Triton's statistics extension: how often and how long models ran, summed over all replicas since the start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastapi import APIRouter, Request
from prometheus_client.core import Metric
from pydantic import BaseModel

from serving.readings import Readings, readings_of
from serving.verb import running_routes

server_router = APIRouter(tags=["metrics"])
model_router = APIRouter(tags=["metrics"])


class Duration(BaseModel):
    """How often something was done, and the nanoseconds that this took together."""

    count: int
    ns: int


class InferenceStatistics(BaseModel):
    """The parts of the time of requests. Caches are not used, so that both of their entries are zero."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration = Duration(count=0, ns=0)
    cache_miss: Duration = Duration(count=0, ns=0)


class BatchStatistics(BaseModel):
    """The runs with one size of batch. Reading and writing of requests is not counted by batch."""

    batch_size: int
    compute_input: Duration = Duration(count=0, ns=0)
    compute_infer: Duration
    compute_output: Duration = Duration(count=0, ns=0)


class ModelStatistics(BaseModel):
    """The statistics of one version of a model. `last_inference` is in milliseconds since 1970, or 0."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class Statistics(BaseModel):
    """The statistics of models."""

    model_stats: list[ModelStatistics]


@server_router.get("/v2/models/stats")
async def statistics(request: Request) -> Statistics:
    """Return the statistics of all models."""
    models = [(model.name, str(model.version)) for model in request.app.state.served().models]
    return statistics_of(await request.app.state.families(), models)


@model_router.get("/stats")
@model_router.get("/versions/{version}/stats", include_in_schema=False)
async def model_statistics(request: Request) -> Statistics:
    """Return the statistics of this model."""
    manifest = request.app.state.manifest
    return statistics_of(await request.app.state.families(), [(manifest.name, str(manifest.version))])


def statistics_of(families: Iterable[Metric], models: Sequence[tuple[str, str]]) -> Statistics:
    """Return the statistics of `models`, each a name and a version, from the metrics of all processes."""
    readings = readings_of(families)
    return Statistics(model_stats=[_model(readings, name, version) for name, version in models])


def _model(readings: Readings, name: str, version: str) -> ModelStatistics:
    labels = {"model": name, "version": version}
    batches = readings.by("rows", "zorse_batches_total", **labels)
    seconds = readings.by("rows", "zorse_batch_seconds_total", **labels)
    return ModelStatistics(
        name=name,
        version=version,
        last_inference=round(1000 * readings.total("zorse_last_batch_timestamp_seconds", **labels)),
        inference_count=round(readings.total("zorse_rows_total", **labels)),
        execution_count=round(sum(batches.values())),
        inference_stats=InferenceStatistics(
            **_requests(readings, labels),
            queue=_duration(readings, "zorse_queue_seconds", labels),
            compute_input=_duration(readings, "zorse_decode_seconds", labels),
            compute_infer=_duration(readings, "zorse_infer_seconds", labels),
            compute_output=_duration(readings, "zorse_encode_seconds", labels),
        ),
        batch_stats=[
            BatchStatistics(batch_size=int(rows), compute_infer=_rounded(batches[rows], seconds[rows]))
            for rows in sorted(batches, key=int)
        ],
    )


def _requests(readings: Readings, labels: dict[str, str]) -> dict[str, Duration]:
    """Return the requests that ran the model or should have, by success."""
    success, fail = (0.0, 0.0), (0.0, 0.0)
    for route in running_routes():
        counts = readings.by("status", "zorse_request_seconds_count", route=route, **labels)
        seconds = readings.by("status", "zorse_request_seconds_sum", route=route, **labels)
        for status, count in counts.items():
            if int(status) < 400:
                success = success[0] + count, success[1] + seconds[status]
            else:
                fail = fail[0] + count, fail[1] + seconds[status]
    return {"success": _rounded(*success), "fail": _rounded(*fail)}


def _duration(readings: Readings, name: str, labels: dict[str, str]) -> Duration:
    return _rounded(readings.total(f"{name}_count", **labels), readings.total(f"{name}_sum", **labels))


def _rounded(count: float, seconds: float) -> Duration:
    return Duration(count=round(count), ns=round(1e9 * seconds))
