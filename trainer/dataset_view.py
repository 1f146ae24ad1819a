"""Says what each dataset of files would make of a set of images, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from trainer import registry
from trainer.data.augmented_files import ImageFilesConfig
from zorse_common.errors import ZorseError
from zorse_common.files import ImageFiles

_ANY_SIZE = 8
"""A legal size. The choice of files does not depend on it."""


@dataclass(frozen=True)
class DatasetView:
    """What the dataset `type` takes from a set of images.

    Attributes:
        domains, classes, paired: those of its `DataSpec`.
        collections: how many images each collection has, such as "trainA"; empty if none can be chosen.
        unused: how many images are in no collection, and the `reason`.
        facts: the lines that a run would print.
        refused: why a run would not start, or None.
    """

    type: str
    domains: tuple[str, ...]
    classes: int | None
    paired: bool
    collections: dict[str, int] = field(default_factory=dict)
    unused: int = 0
    reason: str = ""
    facts: list[str] = field(default_factory=list)
    refused: str | None = None


def dataset_views(files: ImageFiles) -> Iterator[DatasetView]:
    """Yield what each dataset of image files takes from `files`. A few files of each collection are read."""
    for name in registry.names("data"):
        config_type = registry.component("data", name).Config
        if issubclass(config_type, ImageFilesConfig):
            config = config_type(root=files.root, size=_ANY_SIZE, value_range=files.value_range)
            yield _view(name, config, files)


def _view(name: str, config: ImageFilesConfig, files: ImageFiles) -> DatasetView:
    spec = config.spec()
    subject = (name, tuple(spec.domains), spec.classes, spec.paired)
    try:
        selection = config.select(files.names)
    except ZorseError as error:
        return DatasetView(*subject, refused=str(error))
    counts = {collection: len(names) for collection, names in selection.collections.items()}
    view = DatasetView(*subject, counts, len(files.names) - sum(counts.values()), selection.reason)
    try:
        return replace(view, facts=selection.facts(files))
    except ZorseError as error:
        return replace(view, refused=str(error))
