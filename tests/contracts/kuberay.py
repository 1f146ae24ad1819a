"""The fields of KubeRay's RayJob and RayService, and of the pods in them, that the manifests in `deploy` use.

Names and types are those of KubeRay 1.5.1 to 1.7 (`ray-operator/apis/ray/v1`) and of Kubernetes' core/v1. Kubernetes
drops or refuses a field that it does not know, so that a misspelled one has no effect: here it is an error.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")]
"""A number with a unit. It must be a text in YAML."""
Count = Annotated[int, Field(ge=0)]


class Fields(BaseModel):
    """Fields without unknown ones, of the very types that are stated. Their names in YAML are in camel case."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class SecretKey(Fields):
    name: Name
    key: str


class ValueFrom(Fields):
    secret_key_ref: SecretKey


class Variable(Fields):
    name: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    value: str | None = None
    value_from: ValueFrom | None = None

    @model_validator(mode="after")
    def _has_one_value(self) -> Self:
        assert (self.value is None) != (self.value_from is None), f"{self.name} has no value, or two"
        return self


class Secret(Fields):
    name: Name


class VariablesFrom(Fields):
    secret_ref: Secret


class Port(Fields):
    name: Name
    container_port: Annotated[int, Field(gt=0, lt=65536)]


class Resources(Fields):
    requests: dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity]
    limits: dict[Literal["memory", "nvidia.com/gpu"], Quantity]

    @model_validator(mode="after")
    def _reserve_what_they_allow(self) -> Self:
        # A pod that may use more memory than it has reserved is the first one to be killed.
        reserved = {name: value for name, value in self.requests.items() if name != "cpu"}
        assert self.limits == reserved, "limits and requests differ"
        return self


class Container(Fields):
    name: Name
    image: str
    ports: list[Port] = []
    env: list[Variable]
    env_from: list[VariablesFrom]
    resources: Resources


class PodSecurity(Fields):
    run_as_non_root: bool


class Pod(Fields):
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: Count = 30
    security_context: PodSecurity | None = None
    containers: Annotated[list[Container], Field(min_length=1, max_length=1)]


class PodTemplate(Fields):
    spec: Pod


class Group(Fields):
    ray_start_params: dict[str, str]
    template: PodTemplate

    @property
    def container(self) -> Container:
        return self.template.spec.containers[0]


class WorkerGroup(Group):
    group_name: Name
    replicas: Count
    min_replicas: Count
    max_replicas: Count

    @model_validator(mode="after")
    def _begins_in_its_range(self) -> Self:
        assert self.min_replicas <= self.replicas <= self.max_replicas, "replicas is not between its bounds"
        return self


class Auth(Fields):
    mode: Literal["disabled", "token"]


class RedisCredential(Fields):
    value_from: ValueFrom


class GcsFaultTolerance(Fields):
    redis_address: str = Field(pattern=r"^[^:]+:[0-9]+$")
    redis_password: RedisCredential


class RayCluster(Fields):
    ray_version: str
    enable_in_tree_autoscaling: bool
    auth_options: Auth
    gcs_fault_tolerance_options: GcsFaultTolerance | None = None
    head_group_spec: Group
    worker_group_specs: list[WorkerGroup]

    @property
    def groups(self) -> list[Group]:
        return [self.head_group_spec, *self.worker_group_specs]


class Metadata(Fields):
    name: Name


class RayJobSpec(Fields):
    entrypoint: str
    backoff_limit: Count
    shutdown_after_job_finishes: bool
    ray_cluster_spec: RayCluster

    @property
    def cluster(self) -> RayCluster:
        return self.ray_cluster_spec


class RayJob(Fields):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


class RayServiceSpec(Fields):
    exclude_head_pod_from_serve_svc: bool
    serve_config_v2: str
    ray_cluster_config: RayCluster

    @property
    def cluster(self) -> RayCluster:
        return self.ray_cluster_config


class RayService(Fields):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: RayServiceSpec


KINDS: dict[str, type[RayJob | RayService]] = {"RayJob": RayJob, "RayService": RayService}
