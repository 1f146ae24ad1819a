"""Locates configuration files by name, reads them with `key.sub=value` overrides, and compares configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import validate
from trainer.errors import ConfigError
from trainer.run_config import RunConfig
from zorse_common.errors import nearest_hint, one_line

_PACKAGE = Path(__file__).parent
SHIPPED_CONFIGS = (_PACKAGE.parent / "configs" / "train", _PACKAGE / "configs")
"""The folders of the shipped training configs: in a checkout, and in an installed wheel."""
_PLACES = frozenset({"run.dir", "run.storage", "data.root"})
"""Keys whose value on the command line is a path or URI, which is not parsed as YAML."""


def find_config(name: str) -> Path:
    """Return the file `name`, or the shipped config of that name, with or without `configs/train/` and `.yaml`.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = sorted(path for folder in SHIPPED_CONFIGS for path in folder.glob("*.yaml"))
    for config in shipped:
        if name.removesuffix(".yaml") in (config.stem, f"configs/train/{config.stem}"):
            return config
    names = [config.stem for config in shipped]
    raise ConfigError(f"no config {name}{nearest_hint(path.stem, names)}; shipped ones: {', '.join(names)}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key.sub=value` overrides and validate.

    Raises:
        ConfigError: unreadable file, malformed override, unknown key or illegal value.
    """
    changes = parse_overrides(overrides)
    try:
        written = OmegaConf.load(path)
        if not isinstance(written, DictConfig):
            raise ConfigError(f"{path} holds no sections: expected keys {', '.join(RunConfig.model_fields)}")
        data = OmegaConf.to_container(OmegaConf.merge(written, changes), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from error
    assert isinstance(data, dict)
    return validate(RunConfig, data, str(path))


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """Parse overrides of the form `key.sub=value`. Later ones win.

    Raises:
        ConfigError: an override is malformed.
    """
    merged = OmegaConf.merge(OmegaConf.create(), *map(_parse_override, overrides))
    assert isinstance(merged, DictConfig)
    return merged


def _parse_override(override: str) -> DictConfig:
    """Parse `key.sub=value`. The value is YAML, except for the keys `_PLACES`, whose value is the text itself."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form key.sub=value")
    try:
        if key.strip() in _PLACES:
            parsed = OmegaConf.create()
            OmegaConf.update(parsed, key.strip(), value.replace("${", "\\${"))
        else:
            parsed = OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"override {override!r} cannot be read: its value is not YAML") from error
    return parsed


def differences(config: dict[Any, Any], base: dict[Any, Any], prefix: str = "") -> list[str]:
    """Return one line `key: old -> new` for each leaf of `config` that differs from `base`."""
    lines: list[str] = []
    for key in sorted({*config, *base}, key=str):
        new, old, name = config.get(key), base.get(key), f"{prefix}{key}"
        if isinstance(new, dict) and isinstance(old, dict | None):
            lines += differences(new, old or {}, f"{name}.")
        elif new != old:
            lines.append(f"{name}: {old} -> {new}" if key in base else f"{name}: {new} (default)")
    return lines
