"""Runs a few steps of a config as rank r of W over gloo, without Ray, and saves what can be compared."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.optim.optimizer import register_optimizer_step_pre_hook

from serving.ports import free_port
from trainer.run_config import RunConfig

STEPS = 5


def train_ranks(configs: dict[str, dict[str, Any]], workers: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Train each config for `STEPS` steps on `workers` processes: name → what rank 0 saw and holds.

    `networks` are the names of its networks; `gradients` those of each network's first step, as the optimiser
    got them; `start` and `parameters` are before the first and after the last step; `pools` are gathered from
    all ranks.
    """
    spawn(_train, workers, configs, str(folder))
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in configs}


def spawn(work: Callable[..., None], workers: int, *arguments: Any) -> None:
    """Call `work(*arguments)` on each of `workers` processes of one gloo group, with a thread each.

    The processes are forks of one that has imported the training already.
    """
    multiprocessing.set_forkserver_preload(["tests.trainer.preloaded"])
    arguments = (workers, free_port(), work, arguments)
    torch.multiprocessing.start_processes(_rank, arguments, nprocs=workers, start_method="forkserver")


def _rank(rank: int, workers: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(workers),
    }
    torch.set_num_threads(1)
    # A rank that a library aborts says where it was.
    faulthandler.enable()
    dist.init_process_group("gloo", rank=rank, world_size=workers)
    work(*arguments)
    dist.destroy_process_group()


def _train(configs: dict[str, dict[str, Any]], folder: str) -> None:
    rank, workers = dist.get_rank(), dist.get_world_size()
    for name, data in configs.items():
        result = _steps(RunConfig.model_validate(data | {"run": data["run"] | {"workers": workers}}), rank)
        if rank == 0:
            torch.save(result, Path(folder) / f"{name}.pt")


def _steps(config: RunConfig, rank: int) -> dict[str, Any]:
    from trainer.engine import PlayerEngines
    from trainer.loader import Loader, Worker
    from trainer.tasks.build import build_dataset, build_task

    task, dataset = build_task(config), build_dataset(config)
    engines = PlayerEngines(task, config, torch.device("cpu"))
    start = {name: parameter.detach().clone() for name, parameter in task.networks.named_parameters()}
    names = {id(parameter): name for name, parameter in task.networks.named_parameters()}
    gradients: dict[str, torch.Tensor] = {}

    def remember(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                gradients.setdefault(names[id(parameter)], parameter.grad.clone())

    handle = register_optimizer_step_pre_hook(remember)
    workers = config.run.workers
    assert isinstance(workers, int)
    prepare = partial(task.prepare, seed=config.run.seed)
    loader = Loader(dataset, prepare, config.batch, Worker(rank, workers), device=torch.device("cpu"))
    steps = loader.steps(0)
    for step in range(STEPS):
        batches = next(steps)
        for phase in task.phases:
            engines.step(phase, batches, step / STEPS)
    steps.close()
    handle.remove()
    pools: list[Any] = [None] * config.run.workers
    dist.all_gather_object(pools, task.state())
    return {
        "networks": list(task.networks),
        "gradients": gradients,
        "start": start,
        "parameters": {name: parameter.detach() for name, parameter in task.networks.named_parameters()},
        "pools": {key: image for part in pools for key, image in part.items()},
    }
