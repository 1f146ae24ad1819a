"""Builds a run's dataset and task, and checks by shapes alone whether they fit together."""

from __future__ import annotations

import torch

from trainer import registry
from trainer.data.base import DataConfig, Dataset, DataSpec
from trainer.errors import ConfigError, DataError
from trainer.models.base import Translator
from trainer.run_config import RunConfig
from trainer.tasks.base import Batch, Task, trained_sets


def build_dataset(config: RunConfig) -> Dataset:
    """Return the run's dataset.

    Raises:
        DataError: images are missing, or fewer than one step takes.
    """
    dataset: Dataset = registry.build(config.data, seed=config.run.seed)
    for domain in dataset.spec.domains:
        if dataset.count(domain) < config.batch.global_size:
            raise DataError(
                f"data: {dataset.count(domain)} training images ({domain}) are fewer than batch.global_size "
                f"({config.batch.global_size}): add images or make the batch smaller"
            )
    return dataset


def data_spec(config: RunConfig) -> DataSpec:
    """Return what the examples of the run's dataset consist of, without reading a file.

    Raises:
        TypeError: the dataset's Config is no DataConfig, which its author has to change.
    """
    if not isinstance(config.data, DataConfig):
        raise TypeError(f"data {config.data.component_type}: its nested Config must be a trainer.data.base.DataConfig")
    return config.data.spec()


def build_task(config: RunConfig) -> Task:
    """The run's task with networks drawn from the run's seed: the same on every worker.

    Raises:
        ConfigError: a component cannot play the part it was given.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        task: Task = registry.build(config.task, seed=config.run.seed, global_size=config.batch.global_size)
    return task


def check_fit(config: RunConfig) -> None:
    """Run each phase once without data or memory (on PyTorch's meta device).

    Raises:
        ConfigError: the task, its networks and the images do not fit together; the message says where.
    """
    domains = data_spec(config).domains
    images = {
        name: torch.zeros(config.micro_size, image.channels, image.size or 0, image.size or 0, device="meta")
        for name, image in domains.items()
    }
    channels, size = next(iter(images.values())).shape[1:3]
    with torch.device("meta"):
        task = build_task(config)
    trained_sets(task.phases)
    if set(domains) != set(task.domains):
        raise ConfigError(
            f"task {config.task.component_type} needs the domains {', '.join(task.domains)}, "
            f"but data {config.data.component_type} has {', '.join(domains)}"
        )
    for name, network in task.networks.items():
        _check_network(name, network, size, channels)
    batch = Batch(torch.arange(config.micro_size), images)
    for phase in task.phases:
        try:
            task.losses(phase, batch)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"the {phase.name}'s networks cannot take {size}x{size} images with {channels} channels: {reason}"
            ) from error


def _check_network(name: str, network: object, size: int, channels: int) -> None:
    edge, depth = getattr(network, "size", size), getattr(network, "channels", channels)
    if (edge, depth) != (size, channels):
        raise ConfigError(
            f"{name} is for {edge}x{edge} images with {depth} channels, but data has "
            f"{size}x{size} with {channels}: set size: ${{data.size}} and channels: ${{data.channels}}"
        )
    if isinstance(network, Translator):
        if (network.in_channels, network.out_channels) != (channels, channels):
            raise ConfigError(
                f"{name} translates {network.in_channels} to {network.out_channels} channels, but data has {channels}"
            )
        if size % network.size_multiple or size < network.minimum_size:
            raise ConfigError(
                f"data.size = {size}: {name} takes multiples of {network.size_multiple} from {network.minimum_size} up"
            )
