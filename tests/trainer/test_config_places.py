"""Paths and URIs in overrides are not parsed as YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config_files import find_config, load_config
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    "place", ["007", "/data/photos #2", "a: b", "yes", "1e3", "[x]", "${HOME}/x", "null", "a=b", "x "]
)
def test_place_override_is_not_parsed_as_yaml(place: str) -> None:
    config = load_config(find_config("dcgan"), [f"run.dir={place}", f"run.storage={place}", f"data.root={place}"])
    assert (config.run.dir, config.run.storage) == (place, place)
    assert config.data.root == str(Path(place).absolute())  # type: ignore[attr-defined]


def test_place_expands_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(
        find_config("dcgan"), ["run.dir=~/runs/faces", "data.root=~/faces.zip", "run.storage=s3://~/x"]
    )
    assert (config.run.dir, config.run.storage) == ("/home/somebody/runs/faces", "s3://~/x")
    assert config.data.root == "/home/somebody/faces.zip"  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["run.dir", "data.root"])
def test_place_that_is_not_utf8_is_refused_with_its_key(key: str) -> None:
    name = "dcgan" if key == "data.root" else "digits"
    with pytest.raises(ConfigError, match=r"its name is not UTF-8, .*: rename the folder") as raised:
        load_config(find_config(name), [f"{key}=r\udce9x"]).model_dump(mode="json")
    assert key.split(".")[-1] in str(raised.value)
