"""`train`: checks a run's config and folder, decides what a resume may change, and launches the run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

import yaml

from trainer import checkpoint, snapshot
from trainer.cluster import cluster_address
from trainer.config import Resume, Section, differing_leaves, validate
from trainer.config_files import find_config, load_config
from trainer.errors import ConfigError
from trainer.history import CONFIG_FILE
from trainer.journal import RunJournal, acquire_run_folder
from trainer.launch import launch
from trainer.progress_actor import Update
from trainer.run_config import RunConfig, with_place
from trainer.tasks.build import build_dataset, check_fit
from zorse_common.errors import StorageError
from zorse_common.storage import Storage


def train(
    config: RunConfig | str,
    overrides: Sequence[str] = (),
    *,
    show: Callable[[Update], None] | None = None,
    resume: bool = False,
    address: str | None = None,
) -> str:
    """Check the config, the data and the run's folder, train, and return the URI of the folder.

    `config` is a YAML file, the name of a shipped config (both with `key.sub=value` overrides), or a `RunConfig`.
    `show` is called about twice a second with the run's progress. `resume` continues from the newest good checkpoint of
    the run's folder, and starts at image 0 if there is none. `address` is that of a Ray cluster ("auto", or host:port
    of its head).

    Raises:
        Preempted: SIGTERM or SIGINT stopped the run after a checkpoint.
        TrainerError: the config or the data is wrong, the run's folder is in use, or a worker failed.
    """
    run = load_config(find_config(config), overrides) if isinstance(config, str) else config
    if run.run.revision is None:
        run = run.model_copy(update={"run": run.run.model_copy(update={"revision": git_revision()})})
    check_fit(run)
    if cluster_address(address) is None:
        # On a cluster the images may be where only the workers can read them; each worker opens its dataset anyway.
        build_dataset(run)
    storage = Storage(run.run.place)
    acquire_run_folder(storage, wait=resume)
    event = _open(storage, run, resume)
    try:
        storage.write(CONFIG_FILE, yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False).encode())
    except OSError as error:
        raise StorageError(f"{storage.uri} cannot be written ({error}): check run.storage and run.dir") from error
    with RunJournal(storage, show or (lambda update: None)) as journal:
        # Before the launch, which may fail: the next resume would compare with the config that was just written.
        journal.update(Update(events=event))
        launch(with_place(run, storage.uri), journal.update, address)
    return storage.uri


def git_revision() -> str | None:
    """Return the commit of the working folder, with "-dirty" if files were changed; None without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _open(storage: Storage, config: RunConfig, resume: bool) -> tuple[str, ...]:
    """Check that the run may use its folder. Return the event that says what a resume changes; none for a new run.

    Raises:
        ConfigError: the folder holds a run and this is no resume, or the resume changes a key that is fixed.
    """
    if not any((storage / folder).folders() for folder in (snapshot.FOLDER, checkpoint.FOLDER)):
        return ()
    if not resume:
        raise ConfigError(
            f"run.dir {storage.uri} already holds a run: continue it with --resume, choose another run.dir or remove it"
        )
    if not storage.exists(CONFIG_FILE):
        raise ConfigError(f"{storage.uri} cannot be resumed: it has no {CONFIG_FILE}")
    written = validate(RunConfig, yaml.safe_load(storage.read(CONFIG_FILE)), f"{storage.uri}/{CONFIG_FILE}")
    differing = differing_leaves([each.model_dump(mode="json") for each in (written, config)], "(absent)")
    changes = {key: f"{key}: {before} -> {now}" for key, (before, now) in sorted(differing.items())}
    markers = _resume_markers(written) | _resume_markers(config)
    refused = [line for key, line in changes.items() if _nearest_marker(key, markers) is Resume.FIXED]
    if refused:
        raise ConfigError(
            f"{storage.uri} cannot be resumed with {'; '.join(refused)}: keep the old values, or choose another run.dir"
        )
    lines = [line for key, line in changes.items() if key not in ("run.dir", "run.storage")]
    return ("resumed" + (f" with {'; '.join(lines)}" if lines else ""),)


def _resume_markers(section: Section, prefix: str = "") -> dict[str, Resume]:
    """Return the `Resume` markers of `section` and of the sections in it, by dotted key."""
    markers: dict[str, Resume] = {}
    for name, field in type(section).model_fields.items():
        markers |= {f"{prefix}{name}": entry for entry in field.metadata if isinstance(entry, Resume)}
        value = getattr(section, name)
        if isinstance(value, Section):
            markers |= _resume_markers(value, f"{prefix}{name}.")
    return markers


def _nearest_marker(key: str, markers: dict[str, Resume]) -> Resume:
    """Return the marker of the dotted `key`, or of the nearest section around it; `FIXED` without any."""
    while key and key not in markers:
        key = key.rpartition(".")[0]
    return markers.get(key, Resume.FIXED)
