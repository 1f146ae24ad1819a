"""Configuration errors are one line that names the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import registry
from trainer.config import Section, validate
from trainer.config_files import find_config, load_config
from trainer.deepspeed_settings import NUMERICS
from trainer.errors import ConfigError
from trainer.run_config import RunConfig
from trainer.tasks.build import build_dataset, check_fit


def _digits(*overrides: str) -> RunConfig:
    config = load_config(find_config("digits"), overrides)
    check_fit(config)
    return config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.wokers=2", "unknown key run.wokers (did you mean workers?)"),
        ("btach.global_size=2", "unknown key btach (did you mean batch?)"),
        ("task.generator.widht=2", "unknown key task.generator.widht (did you mean width?)"),
        ("task.generator.type=dcgan_generatr", "did you mean dcgan_generator?"),
        ("task.loss.type=huber", "unknown loss 'huber'; known: hinge, least_squares, non_saturating"),
        ("run.total_images=0", "run.total_images = 0: Input should be greater than 0"),
        ("batch.global_size=1", "batch.global_size (1) must be at least run.workers (2) x batch.accumulation (1)"),
        (
            "data.size=64",
            "task gan is for 32x32 images with 1 channels (image), but data digits has 64x64",
        ),
        (
            "task.discriminator.size=64",
            "the discriminator's networks cannot take 32x32 images with 1 channels (image)",
        ),
        ("data.type=stripes data.channels=3", "task gan needs the domains image, but data stripes has A, B"),
        ("task.generator.type=resnet_generator", "unknown key task.generator.latent_dim"),
        ("run.workers.min=3 run.workers.max=2", "min (3) is more than max (2)"),
        ("run.workers.min=1 run.workers.max=64", "batch.global_size (32) must be at least run.workers (64)"),
        ("task.generator_optimizer.lr=-1", "lr = -1: Input should be greater than 0"),
        ("task.generator_optimizer.betas=[0.5,1.5]", "betas.1 = 1.5: Input should be less than 1"),
        ("run.total_images", "override 'run.total_images' is not of the form key.sub=value"),
    ],
)
def test_load_config_names_a_wrong_key_and_the_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _digits(*override.split())
    assert message in str(caught.value)


def test_find_config_names_the_shipped_configs() -> None:
    with pytest.raises(ConfigError, match=r"no config digts .*did you mean digits.*shipped ones: .*stripes"):
        find_config("digts")


def test_find_config_does_not_take_a_mistyped_path_for_a_shipped_config() -> None:
    with pytest.raises(ConfigError, match=r"no config nowhere/digits.yaml"):
        find_config("nowhere/digits.yaml")


@pytest.mark.parametrize("content", ["- a list", "run: [", "", "run: {dir: x}"])
def test_load_config_refuses_files_that_are_no_configs(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(path)


def test_build_dataset_refuses_fewer_images_than_a_batch() -> None:
    with pytest.raises(Exception, match=r"are fewer than batch\.global_size"):
        build_dataset(_digits("batch.global_size=8000"))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "use 0, 1 or 2"),
        ({"zero_optimization": None}, "use 0, 1 or 2"),
        ({"bf16": {"enabled": True}}, "deepspeed.bf16 is set by zorse"),
        ({"train_batch_size": 4}, "deepspeed.train_batch_size is set by zorse"),
        ({"communication_data_type": "fp16"}, "deepspeed.communication_data_type is set by zorse"),
        ({"compression_training": {}}, "deepspeed.compression_training is set by zorse"),
        ({"zero_optimization": {"stage": 2, "zero_quantized_gradients": True}}, "zero_quantized_gradients is set by"),
    ],
)
def test_deepspeed_section_refuses_keys_that_zorse_sets(section: dict[str, object], message: str) -> None:
    plain = _digits().model_dump() | {"deepspeed": section}
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, plain, "run.yaml")


def test_deepspeed_section_cannot_change_what_the_engine_sets() -> None:
    for key, value in NUMERICS.items():
        with pytest.raises(ConfigError, match=rf"deepspeed\.{key} is set by zorse"):
            validate(RunConfig, _digits().model_dump() | {"deepspeed": {key: value}}, "run.yaml")


def test_dropout_that_would_be_trained_is_refused() -> None:
    networks = {"generator": {"type": "unet_generator", "width": 4, "depth": 5, "dropout": True}}
    config = load_config(find_config("stripes")).model_dump(mode="json")
    config["task"] |= networks
    with pytest.raises(ConfigError, match=r"is a dropout, which cannot be trained reproducibly: set dropout: false"):
        check_fit(validate(RunConfig, config, "run.yaml"))


def test_component_of_the_main_module_is_refused() -> None:
    class Config(Section):
        """No keys."""

    component = type("Scripted", (), {"Config": Config, "__module__": "__main__"})
    with pytest.raises(TypeError, match="must be in a module that workers can import"):
        registry.register("loss")(component)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence): correct its module"),
        ("import sys\nsys.exit(3)", "SystemExit: 3): correct its module"),
        ("def broken(:", "SyntaxError: "),
        ("from trainer.registry import register\n@register('loss')\nclass Loss: pass", "TypeError: Loss must define a"),
        ("import module_that_is_missing", "No module named 'module_that_is_missing'): check its name and PYTHONPATH"),
    ],
)
def test_plug_in_that_fails_at_its_import_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, reason: str
) -> None:
    name = f"plug_in_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        registry.resolve("loss", {"type": f"{name}:Loss"})
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.generator_optimizer.lr=.inf", "Input should be a finite number"),
        ("run.dir=", "the path is empty: give a folder or a URI"),
        ("task.generator=[1,2]", "cannot be read"),
        ("evaluation={metric: {type: digits_frechet}, interval_images: 9, domain: B}", "domain = B: give one of image"),
    ],
)
def test_values_that_no_run_can_have_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_fit(load_config(find_config("digits"), [override]))
    assert message in str(caught.value)
