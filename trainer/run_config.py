"""`RunConfig`: the whole configuration of a run as one frozen, typed object that holds the Configs of components."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from trainer.config import Place, Resume, Section
from trainer.deepspeed_settings import check_section
from trainer.registry import DataComponent, MetricComponent, TaskComponent


class WorkersSection(Section):
    """An elastic number of workers: as many as the cluster has room for, from `min` to `max`, as nodes come and go."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self


class BestSection(Section):
    """Which checkpoint to keep beside the newest ones: that with the lowest or highest logged figure `metric`."""

    metric: str
    mode: Literal["min", "max"] = "min"


class RunSection(Section):
    """The folder, length, resources and files of a run.

    Attributes:
        dir: the run's folder, below `storage` if that is set.
        storage: a local folder or a URI such as `s3://bucket/runs`.
        total_images: the number of training images after which the run ends.
        workers: the number of workers, fixed or elastic.
        wait_for_nodes: seconds that the run waits for a cluster to have room for its workers.
        max_failures: how often in a row lost workers are replaced while the run makes no progress.
        gpus: whether workers use GPUs; "auto" uses them if there are enough.
        cpus_per_worker: "auto" divides the CPUs of a single machine, and is 1 on a cluster or with elastic workers.
        checkpoint_images: images between two checkpoints; by default a twentieth of the run.
        keep_checkpoints: the newest checkpoints to keep, beside the `best`.
        snapshot_images: images between two snapshots; by default there is one at the start and one at the end.
        sample_images: images between two sample grids; by default there is one at the start and one at the end.
        log_images: images between two lines of figures.
        allow_new_data: let a resume continue although the training images were changed.
        revision: the version of the code, by default git's; the run's artifacts carry it.
    """

    dir: Place
    storage: Place | None = None
    total_images: int = Field(gt=0)
    workers: Annotated[int, Field(ge=1)] | WorkersSection = 1
    wait_for_nodes: float = Field(default=60.0, ge=0)
    max_failures: int = Field(default=5, ge=0)
    seed: Annotated[int, Field(ge=0, lt=2**63), Resume.FIXED] = 0
    gpus: bool | Literal["auto"] = "auto"
    cpus_per_worker: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    checkpoint_images: int | None = Field(default=None, gt=0)
    keep_checkpoints: int = Field(default=3, ge=1)
    best: BestSection | None = None
    snapshot_images: int | None = Field(default=None, gt=0)
    sample_images: int | None = Field(default=None, gt=0)
    log_images: int = Field(default=100, gt=0)
    allow_new_data: bool = False
    revision: str | None = None

    @property
    def checkpoint_interval(self) -> int:
        """Images from one checkpoint to the next."""
        return self.checkpoint_images or max(1, self.total_images // 20)

    @property
    def place(self) -> str:
        """The path or URI of the run's folder."""
        return self.dir if self.storage is None else f"{self.storage.rstrip('/')}/{self.dir}"

    @property
    def most_workers(self) -> int:
        """The largest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @property
    def fewest_workers(self) -> int:
        """The least number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers.min


class BatchSection(Section):
    """The size of a step.

    Attributes:
        global_size: images per optimiser step over all workers.
        accumulation: the number of micro-batches, each with a backward pass, into which a step is divided.
    """

    global_size: int = Field(gt=0)
    accumulation: Annotated[int, Field(ge=1), Resume.MAY_CHANGE] = 1


class EmaSection(Section):
    """An exponential moving average of the generators' weights.

    Attributes:
        half_life_images: the influence of a step halves over so many images.
    """

    half_life_images: Annotated[float, Field(gt=0), Resume.MAY_CHANGE]


class WatchdogSection(Section):
    """The faults that the watchdog detects, and its reaction.

    Attributes:
        action: "warn" writes an event. "roll_back" also restores a checkpoint from before the fault and changes the
            seed. "stop" also ends the run.
        won_margin: a discriminator has won if its realness of real images exceeds that of generated images by so much
            for `won_images` images.
        diversity: samples have collapsed if their mean distance is less than `diversity` times that of real images.
        rollbacks: the largest number of rollbacks; after them the run is stopped.
    """

    action: Literal["warn", "roll_back", "stop"] = "warn"
    won_margin: float = Field(default=0.95, gt=0, le=1)
    won_images: int = Field(default=10_000, gt=0)
    diversity: float = Field(default=0.1, ge=0)
    rollbacks: int = Field(default=3, ge=1)


class EvaluationSection(Section):
    """A metric of generated images, computed during training and at the end.

    The figures are logged beside the losses; `run.best.metric` may name one.

    Attributes:
        interval_images: training images between two evaluations.
        images: the number of generated images.
        batch: the number of images that are generated at a time.
        domain: the domain to evaluate; it may be left out if the task generates a single domain.
    """

    metric: MetricComponent
    interval_images: int = Field(gt=0)
    images: int = Field(default=1000, gt=1, le=1_000_000)
    batch: int = Field(default=64, gt=0)
    domain: str | None = None


class RunConfig(Section):
    """One training run. The section `deepspeed` goes to DeepSpeed; keys that zorse sets itself are refused in it."""

    run: Annotated[RunSection, Resume.MAY_CHANGE]
    batch: BatchSection
    data: DataComponent
    task: TaskComponent
    ema: EmaSection | None = None
    watchdog: Annotated[WatchdogSection, Resume.MAY_CHANGE] = WatchdogSection()
    evaluation: Annotated[EvaluationSection | None, Resume.MAY_CHANGE] = None
    precision: Annotated[Literal["auto", "fp32", "bf16"], Resume.MAY_CHANGE] = "auto"
    deepspeed: Annotated[dict[str, Any], AfterValidator(check_section), Resume.MAY_CHANGE] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _batch_suffices(self) -> Self:
        if self.batch.global_size < self.run.most_workers * self.batch.accumulation:
            raise ValueError(
                f"batch.global_size ({self.batch.global_size}) must be at least run.workers "
                f"({self.run.most_workers}) x batch.accumulation ({self.batch.accumulation}): each needs an image"
            )
        return self

    @property
    def micro_size(self) -> int:
        """The largest number of images in one backward pass of a worker."""
        return -(-self.batch.global_size // (self.run.fewest_workers * self.batch.accumulation))


def with_place(config: RunConfig, uri: str) -> RunConfig:
    """Return `config` with the run's folder at `uri`, which does not depend on the working directory."""
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": uri, "storage": None})})
