"""The settings of DeepSpeed that zorse fixes, and the check of a run's `deepspeed` section.

This module does not import DeepSpeed.
"""

from __future__ import annotations

from typing import Any

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
"""The settings of DeepSpeed that change what a step computes, written out because new versions may change defaults.

`trainer.engine.engine_config` adds `gradient_clipping`, which is the optimiser's `clip_norm`.
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
"""The same for the section `zero_optimization`, for runs that have this section."""

_REFUSED = {
    *NUMERICS,
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "steps_per_print",
    "zero_allow_untested_optimizer",
    "optimizer",
    "scheduler",
    "amp",
    "sparse_gradients",
    "compression_training",
    "quantize_training",
    "progressive_layer_drop",
    "curriculum_learning",
    "data_efficiency",
    "elasticity",
}
_REFUSED_ZERO = {key for key in ZERO_NUMERICS if key.startswith("zero_quantized_")}


def check_section(section: dict[str, Any]) -> dict[str, Any]:
    """Return `section` if a run may set its keys.

    Raises:
        ValueError: a key is set by zorse, or the stage of ZeRO is not 0, 1 or 2.
    """
    if "gradient_clipping" in section:
        raise ValueError("deepspeed.gradient_clipping is set by zorse: use clip_norm of the task's optimizers")
    for key in sorted(_REFUSED & section.keys()):
        raise ValueError(f"deepspeed.{key} is set by zorse: use batch.*, precision or the task's optimizers")
    zero = section.get("zero_optimization", {})
    keys = zero if isinstance(zero, dict) else {"stage": zero}
    for key in sorted(_REFUSED_ZERO & keys.keys()):
        raise ValueError(f"deepspeed.zero_optimization.{key} is set by zorse: it would round what a step computes")
    if (stage := keys.get("stage", 0)) not in (0, 1, 2):
        raise ValueError(
            f"deepspeed.zero_optimization.stage = {stage}: use 0, 1 or 2; stage 3 shards the weights that "
            "one player's loss reads from the other, and GAN networks are too small to gain from it"
        )
    return section
