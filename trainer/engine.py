"""The players' DeepSpeed engines: the only module that knows DeepSpeed.

DeepSpeed does the backward pass, the reduction over ranks and the optimiser's step. The forward pass goes
through the modules themselves: an engine's own forward forbids a loss that crosses two engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_fp32_param, safe_set_full_optimizer_state
from torch import Tensor, nn

from trainer.run_config import RunConfig
from trainer.tasks.base import Batch, Losses, OptimizerSection, Phase, Task, only_trainable, trained_sets

# On CPUs DeepSpeed would compile and load a reduction that inference alone uses, behind a lock file that a worker
# killed meanwhile leaves for ever (docs/decisions/0005). We use no operator that it looks up here.
deepspeed.ops.__compatible_ops__ = {}


NUMERICS: dict[str, Any] = {
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
    "gradient_allreduce_op": "mean",
    "managed_gradient_accumulation": True,
    "communication_data_type": "fp32",
    "seq_parallel_communication_data_type": "fp32",
    "data_types": {
        "grad_accum_dtype": "fp32",
        "param_dtype": None,
        "buffer_dtype": None,
        "keep_in_fp32_modules": "auto",
    },
    "fp16": {"enabled": False},
    "bf16": {"enabled": False},
    "torch_autocast": {"enabled": False},
    "disable_allgather": False,
    "zero_force_ds_cpu_optimizer": False,
    "dataloader_drop_last": False,
}
"""DeepSpeed's settings that change numbers, so that none is left to a default that a new version may change.

`engine_config` adds `gradient_clipping`, which is the optimizer's `clip_norm`.
"""

ZERO_NUMERICS: dict[str, Any] = {
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "use_multi_rank_bucket_allreduce": True,
    "allgather_partitions": True,
    "overlap_comm": False,
    "round_robin_gradients": False,
    "load_from_fp32_weights": True,
    "ignore_unused_parameters": True,
    "zero_quantized_weights": False,
    "zero_quantized_nontrainable_weights": False,
    "zero_quantized_gradients": False,
    "compute_grad_norm": True,
}
"""The same for its section `zero_optimization`, where a run has one."""


def engine_config(config: RunConfig, optimizer: OptimizerSection) -> dict[str, Any]:
    """Return the whole DeepSpeed configuration of one player: ours, under it the run's `deepspeed` section.

    `RunConfig` refuses the keys of that section that would change what a step computes.
    """
    section = dict(config.deepspeed)
    zero = section.pop("zero_optimization", None)
    if zero is not None:
        section["zero_optimization"] = ZERO_NUMERICS | (zero if isinstance(zero, dict) else {"stage": zero})
    return (
        NUMERICS
        | section
        | {
            # DeepSpeed 0.19.8 clips to 1.0 by default.
            "gradient_clipping": optimizer.clip_norm or 0.0,
            "train_micro_batch_size_per_gpu": config.micro_size,
            "gradient_accumulation_steps": config.batch.accumulation,
            "steps_per_print": 2**31,
            "zero_allow_untested_optimizer": zero is not None,
        }
    )


class PlayerEngines:
    """One DeepSpeed engine for each distinct set of networks that the task's phases train."""

    def __init__(self, task: Task, config: RunConfig, device: torch.device) -> None:
        """Move the task's networks, which must be equal on all ranks, to `device`; torch.distributed is initialised."""
        self._task, self._config, self._device = task, config, device
        task.networks.to(device)
        self._engines = {networks: self._initialize(networks) for networks in trained_sets(task.phases)}
        self._autocast = autocast_dtype(config, device)

    def step(self, phase: Phase, batches: list[Batch], progress: float) -> Losses:
        """Take one step of a phase over the step's micro-batches; `progress` (0..1) sets the learning rate.

        Returns the phase's scalars over the micro-batches of this rank. Their mean over all ranks is the mean over the
        step's images.
        """
        rate = self._task.optimizer(phase.networks).rate(progress)
        for group in self._engines[phase.networks].optimizer.param_groups:
            group["lr"] = rate
        return _mean([self._micro_step(phase, batch) for batch in batches])

    def optimizer_state(self) -> dict[str, Tensor]:
        """Every engine's optimiser state as whole tensors named `<key>/<parameter>`; each rank must call it."""
        state: dict[str, Tensor] = {}
        for networks, engine in self._engines.items():
            for name, parameter in self._parameters(networks):
                state |= {f"{key}/{name}": value for key, value in _get_state(engine, parameter).items()}
        return state

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `optimizer_state` gave, and the weights that the task's networks hold now."""
        held: dict[str, dict[str, Tensor]] = {}
        for full_name, value in state.items():
            key, name = full_name.split("/")
            held.setdefault(name, {})[key] = value
        for networks, engine in self._engines.items():
            _set_state(engine, [(parameter, held.get(name, {})) for name, parameter in self._parameters(networks)])

    def _parameters(self, networks: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter]]:
        for network in networks:
            for name, parameter in self._task.networks[network].named_parameters():
                if parameter.requires_grad:
                    yield f"{network}.{name}", parameter

    def _micro_step(self, phase: Phase, batch: Batch) -> Losses:
        """Accumulate one micro-batch; at the step's last one DeepSpeed reduces the gradients and moves the weights.

        Returns the losses, detached and multiplied by the batch's weight.
        """
        engine = self._engines[phase.networks]
        with only_trainable(self._task.networks, phase.networks):
            with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                losses = self._task.losses(phase, batch)
            # DeepSpeed takes the mean over ranks and micro-batches, whose sizes may differ by an image.
            engine.backward(losses.total * batch.weight)
        engine.step()
        return Losses(
            losses.total.detach() * batch.weight,
            {name: value * batch.weight for name, value in losses.logged.items()},
            {name: (real * batch.weight, fake * batch.weight) for name, (real, fake) in losses.realness.items()},
        )

    def _initialize(self, networks: tuple[str, ...]) -> Any:
        player = nn.ModuleDict({name: self._task.networks[name] for name in networks})
        section = self._task.optimizer(networks)
        engine, *_ = deepspeed.initialize(
            model=player,
            optimizer=section.build([p for p in player.parameters() if p.requires_grad]),
            config=engine_config(self._config, section),
            dist_init_required=False,
        )
        return engine


def _mean(losses: list[Losses]) -> Losses:
    """Return the means of the scalars of several micro-batches."""

    def mean(values: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(values)).mean()

    first = losses[0]
    return Losses(
        mean(each.total for each in losses),
        {name: mean(each.logged[name] for each in losses) for name in first.logged},
        {
            name: (mean(each.realness[name][0] for each in losses), mean(each.realness[name][1] for each in losses))
            for name in first.realness
        },
    )


def _sharded(engine: Any) -> bool:
    return bool(engine.zero_optimization())


def _get_state(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """The optimiser's tensors of one parameter, each of the parameter's shape or scalar."""
    if not _sharded(engine):
        return {key: value for key, value in engine.optimizer.state[parameter].items() if torch.is_tensor(value)}
    (held,) = engine.optimizer.optimizer.state.values()
    return {
        key: value if value.dim() == 0 else safe_get_full_optimizer_state(parameter, key)
        for key, value in held.items()
        if torch.is_tensor(value)
    }


def _set_state(engine: Any, named: list[tuple[nn.Parameter, dict[str, Tensor]]]) -> None:
    if not _sharded(engine):
        for parameter, state in named:
            # Scalars such as Adam's step stay where they were made: the CPU.
            engine.optimizer.state[parameter] = {
                key: value.clone() if value.dim() == 0 else value.to(parameter.device, copy=True)
                for key, value in state.items()
            }
        return
    sharded = engine.optimizer
    inner = sharded.optimizer
    if not inner.state:
        # DeepSpeed makes its state at the first step only: take one that changes nothing we keep.
        for part in sharded.single_partition_of_fp32_groups:
            part.grad = torch.zeros_like(part)
        inner.step()
        for part in sharded.single_partition_of_fp32_groups:
            part.grad = None
        sharded._lazy_init_hp_params_optimizer_state()
    for parameter, state in named:
        safe_set_full_fp32_param(parameter, parameter.detach())
        for key, value in state.items():
            if value.dim():
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
            else:
                for held in inner.state.values():
                    held[key].copy_(value)


def autocast_dtype(config: RunConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where asked for, or where `precision: auto` finds a GPU that has it; None is float32."""
    automatic = config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if config.precision == "bf16" or automatic else None
