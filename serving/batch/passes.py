"""The models of a batch job: each makes an image of every input, or of the image of another one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from export.manifest import fields_digest
from serving import artifacts
from serving.artifacts import Artifact
from serving.batch.formats.base import IMAGE_COLUMN
from serving.errors import BatchError
from serving.feeds import source_channels
from serving.partners import check_cycle, partner_place

RULES = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)
"""The rules of pydantic for a plan."""


class ModelPass(BaseModel):
    """One model that makes an image of every number or input of a job.

    `column` is the name of its images, `uri` the place of the model and `digest` that of its manifest. A translator
    translates the images of the pass at the position `translates`, or the inputs.
    """

    model_config = RULES

    column: str
    model: str
    version: int
    digest: str
    uri: str
    translates: int | None = None

    @property
    def title(self) -> str:
        """The model's name and version."""
        return f"{self.model}@{self.version}"


def translators(models: Sequence[str]) -> list[Artifact]:
    """Open the translators of a job.

    Raises:
        ServingError: one cannot be opened, or does not translate.
        BatchError: there is none, or they take different channels.
    """
    there = [artifacts.load(model) for model in models]
    if len({source_channels(artifact.manifest.interface) for artifact in there}) != 1:
        raise BatchError("give models that take equally many channels, because images are decoded once for all")
    return there


def partners(there: Sequence[Artifact], name: str | None) -> list[Artifact]:
    """Return the partner of each of the models `there`: that called `name`, or the one that is known.

    Raises:
        BatchError: there is a name and more than one model.
        ServingError: there is no such model, or it cannot translate back.
    """
    if name is not None and len(there) > 1:
        raise BatchError("a partner is for one model: leave it out, or translate with one model")
    back = [artifacts.load(partner_place(artifact, name)) for artifact in there]
    for artifact, partner in zip(there, back, strict=True):
        source_channels(partner.manifest.interface)
        check_cycle(artifact.manifest.interface, partner.manifest.interface)
    return back


def model_passes(artifacts: Sequence[Artifact], partners: Sequence[Artifact] = ()) -> tuple[ModelPass, ...]:
    """Return the passes of a job: each model, and the way back of each through its partner, if there are `partners`.

    The images of a job with one pass are called "image". Otherwise they are called as their model, with the version
    where models of one name differ in it, and those of the way back as the way there with "-back".

    Raises:
        BatchError: two passes would have one name.
    """
    names = Counter(one.manifest.name for one in artifacts)
    passes: list[ModelPass] = []
    for number, artifact in enumerate(artifacts):
        name = artifact.manifest.name
        column = name if names[name] == 1 else f"{name}@{artifact.manifest.version}"
        passes.append(_pass(column, artifact))
        if partners:
            passes.append(_pass(f"{column}-back", partners[number], translates=len(passes) - 1))
    columns = Counter(one.column for one in passes)
    if twice := [column for column, count in columns.items() if count > 1]:
        raise BatchError(f"{twice[0]} would be the name of two models' images: give each model once")
    return tuple(passes) if len(passes) > 1 else (passes[0].model_copy(update={"column": IMAGE_COLUMN}),)


def _pass(column: str, artifact: Artifact, translates: int | None = None) -> ModelPass:
    manifest = artifact.manifest
    digest = fields_digest(dataclasses.asdict(manifest))
    return ModelPass(
        column=column,
        model=manifest.name,
        version=manifest.version,
        digest=digest,
        uri=artifact.uri,
        translates=translates,
    )
