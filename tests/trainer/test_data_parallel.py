"""Design, decision 7: W ranks train on a global batch like one rank, also if W does not divide its size."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.trainer.ranks import train_ranks
from tests.trainer.textures import write_textures
from trainer import registry
from trainer.loader import Loader, Worker, draw_nothing, parts_of_step
from trainer.run_config import BatchSection


def _sgd(rate: float) -> dict[str, Any]:
    # Clipped: what rounding differs by grows with each step, and unclipped ones are large here.
    section = {"type": "sgd", "lr": rate, "clip_norm": 1.0}
    return {f"{player}_optimizer": section for player in ("generator", "discriminator")}


def _cyclegan() -> dict[str, Any]:
    generator = {"type": "resnet_generator", "in_channels": 3, "out_channels": 3, "width": 8, "blocks": 1}
    discriminator = {"type": "patchgan_discriminator", "in_channels": 3, "width": 8, "layers": 1}
    return {
        "run": {"dir": "unused", "total_images": 20},
        "batch": {"global_size": 4},
        "data": {"type": "unpaired", "root": "textures", "size": 16},
        # Six images in four slots: the pool is full after two steps, so swaps happen in the five taken.
        "task": {"type": "cyclegan", "generator": generator, "discriminator": discriminator, "pool_size": 6}
        | _sgd(0.001),
    }


def _gan(loss: str) -> dict[str, Any]:
    generator = {"type": "dcgan_generator", "latent_dim": 16, "channels": 1, "size": 32, "width": 8}
    discriminator = {"type": "dcgan_discriminator", "channels": 1, "size": 32, "width": 8, "norm": "batch"}
    return {
        "run": {"dir": "unused", "total_images": 40, "seed": 1},
        "batch": {"global_size": 8},
        "data": {"type": "digits", "size": 32},
        "task": {"type": "gan", "generator": generator, "discriminator": discriminator, "loss": {"type": loss}}
        | _sgd(0.01),
    }


CONFIGS = {
    "gan": _gan("non_saturating"),
    "gan-hinge": _gan("hinge"),
    "cyclegan": _cyclegan(),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    textures = tmp_path_factory.mktemp("textures")
    write_textures(textures)
    configs = {
        name: config | {"data": config["data"] | {"root": str(textures)}} if "root" in config["data"] else config
        for name, config in CONFIGS.items()
    }
    return {workers: train_ranks(configs, workers, tmp_path_factory.mktemp(f"w{workers}")) for workers in (1, 2, 3)}


def _relative_difference(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one.double() - two.double()).norm() / one.double().norm().clamp_min(1e-30))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_ranks_have_the_gradients_of_one_rank(runs: dict[int, dict[str, Any]], name: str, workers: int) -> None:
    one, several = runs[1][name]["gradients"], runs[workers][name]["gradients"]
    assert one.keys() == several.keys()
    assert {key.split(".")[0] for key in one} == set(runs[1][name]["networks"])
    differences = {key: _relative_difference(one[key], several[key]) for key in one}
    assert max(differences.values()) <= 1e-5, differences


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_ranks_have_the_parameters_of_one_rank_after_five_steps(
    runs: dict[int, dict[str, Any]], name: str, workers: int
) -> None:
    start, one, several = runs[1][name]["start"], runs[1][name]["parameters"], runs[workers][name]["parameters"]
    for network in runs[1][name]["networks"]:
        before, after = (
            torch.cat([tensor.flatten() for key, tensor in state.items() if key.startswith(f"{network}.")])
            for state in (start, one)
        )
        assert _relative_difference(before, after) > 1e-4
    # What starts at zero is nothing but summed gradients, so it cannot agree better than they do.
    bounds = {key: 1e-6 if start[key].any() else 1e-5 for key in one}
    differences = {key: _relative_difference(one[key], several[key]) for key in one}
    assert all(differences[key] <= bounds[key] for key in one), differences


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_pools_belong_to_slots_not_to_workers(runs: dict[int, dict[str, Any]], workers: int) -> None:
    one, several = runs[1]["cyclegan"]["pools"], runs[workers]["cyclegan"]["pools"]
    assert one.keys() == several.keys()
    assert len(one) == 12
    assert max(_relative_difference(one[key], several[key]) for key in one) <= 1e-5


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_micro_batches_have_the_same_images_for_any_number_of_ranks(workers: int, accumulation: int) -> None:
    batch = BatchSection(global_size=13, accumulation=accumulation)
    parts = [parts_of_step(26, batch, workers, rank) for rank in range(workers)]
    micro_batches = [[number for part in ranks for number in part] for ranks in zip(*parts, strict=True)]
    assert micro_batches == [list(whole) for whole in parts_of_step(26, batch, 1, 0)]
    assert list(itertools.chain.from_iterable(micro_batches)) == list(range(26, 39))
    assert all(len(part) for ranks in parts for part in ranks)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_loaders_of_two_ranks_load_the_images_of_one(accumulation: int) -> None:
    dataset = registry.build(registry.resolve("data", {"type": "stripes"}), seed=3)

    def images(workers: int, rank: int) -> list[torch.Tensor]:
        sizes = BatchSection(global_size=8, accumulation=accumulation)
        loader = Loader(dataset, draw_nothing, sizes, Worker(rank, workers), device=torch.device("cpu"))
        steps = loader.steps(0)
        batches = [batch for _ in range(3) for batch in next(steps)]
        steps.close()
        numbers = torch.cat([batch.numbers for batch in batches])
        pixels = torch.cat([torch.cat([batch.images["A"], batch.images["B"]], dim=1) for batch in batches])
        return [numbers, pixels]

    (numbers, pixels), halves = images(1, 0), [images(2, rank) for rank in (0, 1)]
    both = torch.cat([half[0] for half in halves])
    order = both.argsort()
    assert both[order].equal(numbers)
    assert torch.cat([half[1] for half in halves])[order].equal(pixels)
