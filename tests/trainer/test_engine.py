"""The engines: a step through DeepSpeed equals a step of plain PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.engine_steps import CASES, Case, record_cases
from tests.trainer.ranks import spawn
from tests.trainer.textures import write_textures

GOLDEN = Path(__file__).parent / "deepspeed_config.json"
UPDATES = {None: 2e-6, "bf16": 2e-6}
"""The largest difference allowed, as a share of the update's norm. Both sides compute alike, in another order."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("engine")
    write_textures(folder / "textures")
    spawn(record_cases, 1, str(folder))
    tensors: dict[str, Any] = torch.load(folder / "recorded.pt", weights_only=True)
    return tensors


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_engine_step_equals_a_step_of_plain_pytorch(recorded: dict[str, Any], case: Case) -> None:
    case_record = recorded[str(case)]
    for player, norm in case_record["gradient_norms"].items():
        assert norm > 3, f"the gradients of {player} are too small to show clipping"
    for step in (0, 1):
        for player, update in case_record["engine"][step].items():
            reference = case_record["torch"][step][player]
            ratio = float(update.norm() / reference.norm())
            assert math.isclose(ratio, 1, rel_tol=1e-4), f"{player} moves {ratio:.4f} times as far as in PyTorch"
            assert _difference(update, reference) < 1e-4, player


@pytest.mark.slow
def test_engine_effective_configuration_is_the_golden_one(recorded: dict[str, Any]) -> None:
    configurations = json.loads(recorded["configurations"])
    golden = json.loads(GOLDEN.read_text())
    differences = [
        f"{stage} {key}: {golden[stage].get(key, '(absent)')} -> {configurations[stage].get(key, '(absent)')}"
        for stage in golden
        for key in sorted({*golden[stage], *configurations[stage]})
        if golden[stage].get(key, "(absent)") != configurations[stage].get(key, "(absent)")
    ]
    assert not differences, (
        "DeepSpeed's configuration is another one: if a new version has a new default that changes numbers, write it "
        f"out in trainer/engine.py; then update {GOLDEN.name}:\n" + "\n".join(differences)
    )


@pytest.mark.slow
def test_engine_is_shared_by_phases_of_the_same_networks(recorded: dict[str, Any]) -> None:
    assert recorded["lazy"] == {"engines": 2, "steps": {"D": 3, "G": 2}}


@pytest.mark.slow
def test_engine_keeps_losses_weights_and_statistics_in_float32_under_bf16(recorded: dict[str, Any]) -> None:
    assert recorded["dtypes"] == {
        "losses": ["torch.float32"],
        "parameters": ["torch.float32"],
        "optimizer": ["torch.float32"],
        "statistics": ["torch.float32"],
        "convolutions": ["torch.bfloat16"],
    }
