"""A run from its config to its end: its folder, and what a resume may change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import yaml

from trainer import checkpoint, registry, snapshot
from trainer.cluster import cluster_address
from trainer.config import RunConfig, find_config, flatten, load_config, validate, with_place
from trainer.errors import ConfigError
from trainer.history import CONFIG_FILE
from trainer.hooks.base import Update
from trainer.launch import launch
from trainer.record import Record, claim
from trainer.tasks.build import build_dataset, check_fit
from zorse_common.errors import StorageError
from zorse_common.storage import Storage

_ABSENT = "(absent)"
DEEPSPEED_CLIP_NORM = 1.0
"""To what DeepSpeed clipped the gradients of runs from before `clip_norm`, without being asked."""
# What a resume may change; all else decides what the checkpoint's tensors mean, or which images come when.
_MAY_CHANGE = (
    "run.*",
    "precision",
    "deepspeed*",
    "batch.accumulation",
    "data.root",
    "data.max_unreadable",
    "ema.half_life_images",
    "watchdog.*",
    "task.loss*",
    "task.*_weight",
    "task.*_optimizer.lr",
    "task.*_optimizer.betas",
    "task.*_optimizer.decay_from",
    "task.*_optimizer.clip_norm",
)


def train(
    config: RunConfig | str,
    overrides: Sequence[str] = (),
    *,
    show: Callable[[Update], None] | None = None,
    resume: bool = False,
    address: str | None = None,
) -> str:
    """Check everything, train, and return the URI of the run's folder.

    `config` is a YAML file, the name of a shipped config (both with `key.sub=value` overrides), or a `RunConfig`.
    `show` is called about twice a second with what the workers reported. `resume` goes on from the newest good
    checkpoint of the run's folder, or starts where there is none. `address` is that of a Ray cluster ("auto", or
    host:port of its head).

    Raises:
        Preempted: SIGTERM or SIGINT asked the run to stop; it wrote a checkpoint.
        TrainerError: the config or the data is wrong, the run's folder is taken, or a worker failed.
    """
    run = load_config(find_config(config), overrides) if isinstance(config, str) else config
    if run.run.revision is None:
        run = run.model_copy(update={"run": run.run.model_copy(update={"revision": git_revision()})})
    resolved = registry.resolved(run)
    check_fit(run)
    if cluster_address(address) is None:
        # On a cluster the images may lie where only the workers see them, who look themselves.
        build_dataset(run)
    storage = Storage(run.run.place)
    claim(storage, wait=resume)
    news = _open(storage, resolved, resume)
    try:
        storage.write(CONFIG_FILE, yaml.safe_dump(resolved, sort_keys=False).encode())
    except OSError as error:
        raise StorageError(f"{storage.uri} cannot be written ({error}): check run.storage and run.dir") from error
    with Record(storage, show or (lambda update: None)) as record:
        # At once, since the next resume would not find them: the config is written.
        record.update(Update(events=tuple(news)))
        launch(with_place(RunConfig.model_validate(resolved), storage.uri), record.update, news, address)
    return storage.uri


def git_revision() -> str | None:
    """The commit that is checked out in the working folder, with "-dirty" where files differ; None without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _open(storage: Storage, resolved: dict[str, Any], resume: bool) -> list[str]:
    """Check that the run may use its folder, and say what a resume changes.

    Raises:
        ConfigError: it holds a run and this is no resume, or the resume changes what cannot change.
    """
    if not any((storage / folder).folders() for folder in (snapshot.FOLDER, checkpoint.FOLDER)):
        return []
    if not resume:
        raise ConfigError(
            f"run.dir {storage.uri} already holds a run: go on with --resume, choose another run.dir or remove it"
        )
    if not storage.exists(CONFIG_FILE):
        raise ConfigError(f"{storage.uri} cannot be resumed: it has no {CONFIG_FILE}")
    found = yaml.safe_load(storage.read(CONFIG_FILE))
    written = validate(RunConfig, found, f"{storage.uri}/{CONFIG_FILE}")
    before, now = flatten(registry.resolved(written)), flatten(resolved)
    changed = [key for key in sorted({*before, *now}) if before.get(key, _ABSENT) != now.get(key, _ABSENT)]
    changes = {key: f"{key}: {before.get(key, _ABSENT)} -> {now.get(key, _ABSENT)}" for key in changed}
    refused = [line for key, line in changes.items() if key == "run.seed" or not _may_change(key)]
    if refused:
        raise ConfigError(
            f"{storage.uri} cannot be resumed with {'; '.join(refused)}: take the old values or another run.dir"
        )
    told = [line for key, line in changes.items() if key not in ("run.dir", "run.storage")]
    resumed = "resumed" + (f" with {'; '.join(told)}" if told else "")
    return [resumed, *clipping_news(found, resolved)]


def clipping_news(written: dict[str, Any], resolved: dict[str, Any]) -> list[str]:
    """Say that gradients were clipped before, if a run's config is from before `clip_norm` and they no longer are."""
    sections = {name: section for name, section in resolved["task"].items() if "clip_norm" in _keys(section)}
    older = [name for name in sections if "clip_norm" not in _keys(written["task"].get(name))]
    changed = [name for name in older if sections[name]["clip_norm"] != DEEPSPEED_CLIP_NORM]
    if not changed:
        return []
    keys = " ".join(f"task.{name}.clip_norm={DEEPSPEED_CLIP_NORM:g}" for name in changed)
    norms = {sections[name]["clip_norm"] for name in changed}
    now = "they are not" if norms == {None} else "they are as clip_norm says"
    return [
        f"until now this run's gradients were clipped to a norm of {DEEPSPEED_CLIP_NORM:g}, which was DeepSpeed's "
        f"default, and from now on {now}: resume with {keys} to go on as before"
    ]


def _keys(section: object) -> set[str]:
    return set(section) if isinstance(section, dict) else set()


def _may_change(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in _MAY_CHANGE)
