"""The plan of a batch job: its identity, its digest, and the length of shards."""

from __future__ import annotations

import dataclasses

import pytest

from export.manifest import FileEntry, Manifest
from serving.batch.plan import TARGET_SECONDS, Plan, default_shard_size, environment
from serving.errors import BatchError
from tests.serving.batch.jobs import pass_of, plan_of
from tests.serving.tiny import generator_manifest, inverter_manifest


def _of_size(manifest: Manifest, nbytes: int) -> Manifest:
    files = {name: FileEntry("", nbytes if name == "model.onnx" else 0) for name in manifest.files}
    return dataclasses.replace(manifest, files=files)


def test_plan_survives_json() -> None:
    plan = plan_of(generator_manifest())
    assert Plan.from_json(plan.to_json(), "plan.json") == plan
    assert plan.to_json() == Plan.from_json(plan.to_json(), "plan.json").to_json()


def test_plan_with_an_unknown_field_is_refused() -> None:
    text = plan_of(generator_manifest()).to_json().replace('"count"', '"counts"')
    with pytest.raises(BatchError, match=r"plan.json is not a plan of a batch job"):
        Plan.from_json(text, "plan.json")


def test_plan_identity_leaves_out_what_only_informs() -> None:
    plan = plan_of(generator_manifest())
    elsewhere = pass_of(generator_manifest(), uri="s3://elsewhere")
    moved = plan.model_copy(update={"passes": (elsewhere,), "place": "x", "environment": {"numpy": "3"}})
    assert moved.digest() == plan.digest()
    assert moved.changed_environment(plan) == ["numpy 3 instead of 2"]
    assert plan.model_copy(update={"count": 21}).digest() != plan.digest()


def test_plan_differences_name_each_key_with_both_values() -> None:
    plan = plan_of(generator_manifest())
    other = plan.model_copy(update={"keys": {"seed": 8}, "count": 40})
    assert plan.differences(other) == ["count 20 instead of 40", "seed 7 instead of 8"]


def test_plan_differences_of_inputs_have_no_digests() -> None:
    plan = plan_of(inverter_manifest(), inputs="a", count=3)
    other = plan_of(inverter_manifest(), inputs="b", count=4)
    assert plan.differences(other) == ["the inputs have other names, sizes or times", "count 3 instead of 4"]


def test_plan_differences_name_the_models() -> None:
    plan = plan_of(generator_manifest())
    other = plan_of(generator_manifest(version=2))
    assert plan.differences(other) == ['models "image by digits@1 (feed)" instead of "image by digits@2 (feed)"']


def test_plan_shards_cover_every_number_once() -> None:
    plan = plan_of(generator_manifest(), count=20, shard_size=8)
    assert [number for shard in range(plan.shards) for number in plan.numbers(shard)] == list(range(20))
    assert plan_of(generator_manifest(), count=0).shards == 0


def test_default_shard_size_falls_with_the_size_of_the_model() -> None:
    lengths = [
        default_shard_size([_of_size(inverter_manifest(), nbytes)], 10**6, "zip")
        for nbytes in (10**5, 10**7, 10**8, 10**11)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == len(lengths)
    assert lengths[-1] == 1


def test_default_shard_size_of_a_resnet_is_some_seconds_of_work() -> None:
    # ResNet-9 (45 MB) takes 0.12 s of a core at 128 px and four times that at 256 px.
    length = default_shard_size([_of_size(inverter_manifest(), 45_000_000)], 10**6, "zip")
    assert TARGET_SECONDS / 10 < length * 0.12 < length * 0.48 < 3 * TARGET_SECONDS


def test_default_shard_size_of_a_small_generator_is_some_seconds_of_work() -> None:
    # A DCGAN for 32 px (0.4 MB) takes 0.13 ms of a core. The generator here is as large, and has smaller images.
    manifest = _of_size(generator_manifest(), 440_000)
    assert 3 < default_shard_size([manifest], 10**7, "webdataset") * 0.13e-3 < TARGET_SECONDS
    assert default_shard_size([manifest], 10**7, "images") < default_shard_size([manifest], 10**7, "webdataset") / 4


def test_default_shard_size_falls_with_the_size_of_the_images() -> None:
    sizes = [None, (256, 256), (512, 512), (4096, 4096)]
    lengths = [default_shard_size([inverter_manifest()], 10**6, "webdataset", size=size) for size in sizes]
    assert lengths[0] == lengths[1] > lengths[2] > lengths[3] >= 1
    assert lengths[3] * 4096 * 4096 * 3 <= 2**28
    assert default_shard_size([inverter_manifest()] * 4, 10**6, "webdataset") < lengths[0] / 3


def test_default_shard_size_of_a_small_job_gives_several_shards() -> None:
    assert default_shard_size([generator_manifest()], 160, "zip") == 10
    assert default_shard_size([generator_manifest()], 1, "zip") == 1
    assert default_shard_size([generator_manifest()], 0, "zip") == 1


def test_environment_has_a_probe_of_the_written_bytes() -> None:
    png, again = environment("webdataset", "png"), environment("webdataset", "png")
    assert png == again
    assert png["probe"] != environment("webdataset", "webp")["probe"]
    assert png["probe"] != environment("parquet", "png")["probe"]
