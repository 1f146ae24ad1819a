"""The players' DeepSpeed engines. A player is a set of networks that one optimiser trains, such as the generators.

This is the only module that uses DeepSpeed.

DeepSpeed does the backward pass, the reduction over ranks and the optimiser's step. The forward pass calls the networks
directly, because the forward pass of an engine forbids a loss that uses the networks of two engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_fp32_param, safe_set_full_optimizer_state
from torch import Tensor, nn

from trainer.deepspeed_settings import NUMERICS, ZERO_NUMERICS
from trainer.run_config import RunConfig
from trainer.tasks.base import Batch, Losses, OptimizerSection, Phase, Task, only_trainable, trained_sets

# On CPUs DeepSpeed would compile a reduction operator that only inference uses. A worker that is killed meanwhile
# leaves its lock file behind, and all later workers would wait for it (docs/decisions/0005). zorse uses none of the
# operators that DeepSpeed looks up here.
deepspeed.ops.__compatible_ops__ = {}


def engine_config(config: RunConfig, optimizer: OptimizerSection) -> dict[str, Any]:
    """Return the DeepSpeed configuration of one player: the run's `deepspeed` section and the keys that zorse sets.

    `trainer.deepspeed_settings.check_section` refuses keys in that section that would change what a step computes.
    """
    section = dict(config.deepspeed)
    zero = section.pop("zero_optimization", None)
    if zero is not None:
        section["zero_optimization"] = ZERO_NUMERICS | (zero if isinstance(zero, dict) else {"stage": zero})
    return (
        NUMERICS
        | section
        | {
            # DeepSpeed 0.19.8 clips to 1.0 by default; 0 turns clipping off.
            "gradient_clipping": optimizer.clip_norm or 0.0,
            "train_micro_batch_size_per_gpu": config.micro_size,
            "gradient_accumulation_steps": config.batch.accumulation,
            "steps_per_print": 2**31,  # never: zorse has its own log
            "zero_allow_untested_optimizer": zero is not None,
        }
    )


class PlayerEngines:
    """One DeepSpeed engine for each distinct set of networks that the task's phases train."""

    def __init__(self, task: Task, config: RunConfig, device: torch.device) -> None:
        """Move the task's networks, which must be equal on all ranks, to `device`, and start the engines.

        torch.distributed must be initialised.
        """
        self._task, self._config, self._device = task, config, device
        task.networks.to(device)
        self._engines = {networks: self._initialize(networks) for networks in trained_sets(task.phases)}
        self._autocast = autocast_dtype(config, device)

    def step(self, phase: Phase, batches: list[Batch], progress: float) -> Losses:
        """Take one optimiser step of `phase` over this rank's micro-batches.

        `progress` (0..1) is the finished share of the run; the learning rate depends on it. Returns the means of the
        phase's scalars over this rank's micro-batches. Their mean over all ranks is the mean over the step's images.
        """
        rate = self._task.optimizer(phase.networks).rate(progress)
        for group in self._engines[phase.networks].optimizer.param_groups:
            group["lr"] = rate
        return _mean([self._micro_step(phase, batch) for batch in batches])

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimiser states as whole tensors named `<key>/<parameter>`. Each rank must call this method."""
        state: dict[str, Tensor] = {}
        for networks, engine in self._engines.items():
            for name, parameter in self._parameters(networks):
                state |= {f"{key}/{name}": value for key, value in _get_state(engine, parameter).items()}
        return state

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Restore a result of `optimizer_state`, and copy the networks' present weights to sharded optimisers."""
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for full_name, value in state.items():
            key, name = full_name.split("/")
            by_parameter.setdefault(name, {})[key] = value
        for networks, engine in self._engines.items():
            states = [(parameter, by_parameter.get(name, {})) for name, parameter in self._parameters(networks)]
            if _is_sharded(engine):
                _set_sharded_state(engine, states)
            else:
                _set_state(engine, states)

    def _parameters(self, networks: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter]]:
        for network in networks:
            for name, parameter in self._task.networks[network].named_parameters():
                if parameter.requires_grad:
                    yield f"{network}.{name}", parameter

    def _micro_step(self, phase: Phase, batch: Batch) -> Losses:
        """Accumulate the gradients of one micro-batch. DeepSpeed takes the optimiser step at the last one.

        Returns the losses, detached and multiplied by the batch's weight.
        """
        engine = self._engines[phase.networks]
        with only_trainable(self._task.networks, phase.networks):
            with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
                losses = self._task.losses(phase, batch)
            # DeepSpeed averages over ranks and micro-batches as if they had equal sizes; sizes may differ by an image.
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


def _is_sharded(engine: Any) -> bool:
    """Return whether the engine uses ZeRO, which divides the optimiser's state among the ranks."""
    return bool(engine.zero_optimization())


def _get_state(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return the optimiser's tensors of one parameter; each is a scalar or has the parameter's shape."""
    if not _is_sharded(engine):
        return {key: value for key, value in engine.optimizer.state[parameter].items() if torch.is_tensor(value)}
    # With ZeRO the optimiser has one flat parameter: this rank's part of all parameters.
    (flat_state,) = engine.optimizer.optimizer.state.values()
    return {
        key: value if value.dim() == 0 else safe_get_full_optimizer_state(parameter, key)
        for key, value in flat_state.items()
        if torch.is_tensor(value)
    }


def _set_state(engine: Any, states: list[tuple[nn.Parameter, dict[str, Tensor]]]) -> None:
    """Set the optimiser's tensors of each parameter of an engine without ZeRO."""
    for parameter, state in states:
        scalar_device = step_device(engine.optimizer, parameter)
        engine.optimizer.state[parameter] = {
            key: value.to(parameter.device if value.dim() else scalar_device, copy=True) for key, value in state.items()
        }


def step_device(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.device:
    """Return the device on which torch's optimiser keeps the scalars of a parameter's state, such as Adam's step count.

    Torch keeps them on the CPU, but a fused kernel reads them on the parameter's own device.
    """
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return parameter.device if fused else torch.device("cpu")


def _set_sharded_state(engine: Any, states: list[tuple[nn.Parameter, dict[str, Tensor]]]) -> None:
    """Set the optimiser's tensors of each parameter of an engine with ZeRO, and its float32 copy of the weights.

    ZeRO keeps flat float32 partitions of the weights, and DeepSpeed creates their optimiser state at the first step:

    1. If there is no state yet, take a step with zero gradients, which creates it. The step may change the partitions
       and the state; steps 3 to 5 overwrite both.
    2. Let DeepSpeed link the new state to the parameters, which the functions `safe_set_…` need.
    3. Copy each parameter, which the caller has restored, to its float32 partition.
    4. Copy each tensor of a parameter's shape, such as Adam's moments, to its place in the flat state.
    5. Copy scalars, such as Adam's step count, to the state of the flat parameter, which has one for all parameters.
    """
    sharded = engine.optimizer
    inner = sharded.optimizer
    if not inner.state:
        for partition in sharded.single_partition_of_fp32_groups:  # 1
            partition.grad = torch.zeros_like(partition)
        inner.step()
        for partition in sharded.single_partition_of_fp32_groups:
            partition.grad = None
        sharded._lazy_init_hp_params_optimizer_state()  # 2
    for parameter, state in states:
        safe_set_full_fp32_param(parameter, parameter.detach())  # 3
        for key, value in state.items():
            if value.dim():
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)  # 4
            else:
                for flat_state in inner.state.values():
                    flat_state[key].copy_(value)  # 5


def autocast_dtype(config: RunConfig, device: torch.device) -> torch.dtype | None:
    """Return bfloat16 with `precision: bf16`, and with `auto` on a GPU that supports it; None stands for float32."""
    automatic = config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if config.precision == "bf16" or automatic else None
