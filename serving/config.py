"""The settings of the server and of one model's application."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from export.interface import Kind
from export.manifest import PROVED_BATCH

Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
"""A device, or "auto" for CUDA where there is a CUDA device."""
Proxy = Literal["haproxy", "ray"]
ProxyChoice = Literal["auto", "haproxy", "ray"]
"""The program in front of the replicas, or "auto" for HAProxy where it is installed."""
DRAIN_SECONDS = 20
"""How long a model that is being stopped may take to answer the requests that it has accepted."""


class Settings(BaseModel):
    """A frozen group of settings in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Settings):
    """The limits of one request, checked before anything is decoded: bytes of the body, pixels, and images."""

    bytes: int = Field(default=32 * 2**20, gt=0)
    pixels: int = Field(default=16 * 2**20, gt=0)
    images: int = Field(default=256, gt=0)

    @property
    def body(self) -> int:
        """The most bytes of a body: an image of `bytes`, and 64 KiB of a form around it."""
        return self.bytes + 2**16


class Batching(Settings):
    """How requests are merged into batches.

    A batch has at most `max_size` images. `max_pixels` limits the sum of height × width over a batch's source images,
    and with it the memory of a run; its default is 16 images of 256 × 256. A larger image runs alone. Latents have no
    pixels. `timeout_s` is how long a request may take that states no deadline.
    """

    max_size: int = Field(default=PROVED_BATCH, gt=0)
    max_pixels: int = Field(default=2**20, gt=0)
    timeout_s: float = Field(default=60.0, gt=0)


class Capacity(Settings):
    """How much work one process has in progress before it refuses more.

    `requests` counts requests whose bodies have arrived, and `bytes` bodies and answers. `images` and `pixels` are
    those of the images that are read and made, and `seconds` the time that the engine needs for them.
    """

    requests: int = Field(default=1024, gt=0)
    bytes: int = Field(default=256 * 2**20, gt=0)
    images: int = Field(default=4096, gt=0)
    pixels: int = Field(default=128 * 2**20, gt=0)
    seconds: float = Field(default=20.0, gt=0)


_PERIODS = {"s": 1, "m": 60, "h": 3600}


class ApiKey(Settings):
    """A key that opens the server, known by its SHA-256 in hexadecimal.

    `rate` limits the requests with this key: "100/s", "30/m" or "5/h". As many requests may follow at once after a
    pause. Without it there is no limit.
    """

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rate: str | None = Field(default=None, pattern=r"^[1-9][0-9]{0,8}/[smh]$")

    @staticmethod
    def digest(key: bytes) -> str:
        """Return the SHA-256 by which the server knows `key`, in hexadecimal."""
        return hashlib.sha256(key).hexdigest()

    @property
    def per_second(self) -> float:
        """The requests per second that the key allows, infinite without a limit."""
        return math.inf if self.rate is None else self.burst / _PERIODS[self.rate[-1]]

    @property
    def burst(self) -> float:
        """The number of requests that may follow at once after a pause."""
        return math.inf if self.rate is None else float(self.rate.partition("/")[0])


class KeySource(Settings):
    """Where a process finds the keys when it starts: a file of keys, or an environment variable with the one key."""

    file: str | None = None
    variable: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> KeySource:
        if (self.file is None) == (self.variable is None):
            raise ValueError("give either a file or a variable")
        return self


class AccessSettings(Settings):
    """Who may use the server.

    Without `keys` everybody may. `keys_from` is where each process of the server reads them itself. `is_local` refuses
    requests that name another host than this machine, as those do that a web page sends after its name was pointed here
    (DNS rebinding). `cors` is the origin whose web pages may read answers, or "*".
    """

    keys: tuple[ApiKey, ...] = ()
    keys_from: KeySource | None = None
    is_local: bool = False
    cors: str | None = Field(default=None, pattern=r"^(\*|https?://[^/\s,]+)$")


class ModelSummary(BaseModel):
    """A model in the list of a server."""

    name: str
    version: int
    kind: Kind


class Replicas(Settings):
    """How many processes a model has: `min` to `max`, as its work asks for.

    A process stops once it was not needed for `keep_s` seconds. A model with `min` 0 then has none while it is idle.
    """

    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, gt=0)
    keep_s: float = Field(default=60.0, gt=0)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"{self.min}:{self.max} replicas are no range: the first number is the smaller one")
        return self

    @classmethod
    def parse(cls, text: str, keep_s: float = 60.0) -> Self:
        """Return the number or the range that `text` states: "2", "1:8", or "0:4".

        Raises:
            ValueError: `text` states none.
        """
        match = re.fullmatch(r"(?:([0-9]{1,6}):)?([1-9][0-9]{0,5})", text)
        if match is None or int(match[1] or 1) > int(match[2]):
            raise ValueError(f"{text!r} is no number of replicas: write 2, or a range such as 1:8 or 0:4")
        return cls(min=int(match[1] or match[2]), max=int(match[2]), keep_s=keep_s)

    @property
    def is_range(self) -> bool:
        """Whether the number changes with the work."""
        return self.min < self.max


class ModelSettings(Settings):
    """One model's application, in processes as many as `replicas` say.

    `artifact` is the path or URI of the artifact, and `digest` that of its manifest, if it was pinned. Each process
    reserves `cpus`, and with CUDA `gpu_fraction` of a GPU, whose memory it may use. `models` are the names of all
    models of the server, and `partner` the one that translates back, if it is known. `folder` is the server's, which
    all of its processes share; without it the application runs on a cluster.
    """

    name: str
    artifact: str
    digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    models: tuple[str, ...] = ()
    partner: str | None = None
    device: Device = "cpu"
    cpus: float = Field(default=1.0, gt=0)
    gpu_fraction: float = Field(default=1.0, gt=0, le=1)
    batching: Batching = Batching()
    limits: Limits = Limits()
    access: AccessSettings = AccessSettings()
    replicas: Replicas = Replicas()
    folder: str | None = None
    access_log: bool = False

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for each process."""
        return {"num_cpus": self.cpus} | ({"num_gpus": self.gpu_fraction} if self.device == "cuda" else {})


class GatewaySettings(Settings):
    """The application of the server-level routes. `cpus` and `folder` are as in `ModelSettings`.

    `unavailable` has the reason for each model of the repository that is not served. Its keys are `<model>` or
    `<model>/<version>`. `manifests` has the JSON of each model's manifest. With `to_zero` models may have no replica.
    `limits` are those of the requests that it passes on to models.
    """

    models: tuple[ModelSummary, ...]
    manifests: dict[str, str] = {}
    to_zero: bool = False
    unavailable: dict[str, str] = {}
    cpus: float = Field(default=0.1, gt=0)
    limits: Limits = Limits()
    access: AccessSettings = AccessSettings()
    folder: str | None = None
    access_log: bool = False


class ServerSettings(Settings):
    """The settings of `zorse serve`. `alias` names the versions to serve instead of the newest.

    Without a `grpc_port` the server answers HTTP only. It looks at the repository again every `follow_s` seconds, or
    without it serves what it finds at its start. `address` is that of a cluster which runs already; with `detach` the
    models stay there. `cpus` and `gpus` are what a process of a model reserves on a cluster, by default one.
    """

    repository: str
    alias: str | None = None
    follow_s: float | None = Field(default=None, gt=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, gt=0, lt=65536)
    grpc_port: int | None = Field(default=None, gt=0, lt=65536)
    device: DeviceChoice = "auto"
    replicas: Replicas = Replicas()
    address: str | None = None
    detach: bool = False
    cpus: float | None = Field(default=None, gt=0)
    gpus: float | None = Field(default=None, gt=0, le=1)
    batching: Batching = Batching()
    limits: Limits = Limits()
    access: AccessSettings = AccessSettings()
    access_log: bool = False
    insecure: bool = False
    proxy: ProxyChoice = "auto"
