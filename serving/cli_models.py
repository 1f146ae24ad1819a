"""What the commands on one model share: options, opening a local or a served model, and writing files."""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

if TYPE_CHECKING:
    from serving.codec import File


class DeviceName(StrEnum):
    """Where a model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


DeviceOption = Annotated[DeviceName, typer.Option(help="auto takes CUDA where there is a CUDA device.")]
KeyOption = Annotated[
    str | None,
    typer.Option(envvar="ZORSE_API_KEY", help="The server's key. Other users see arguments: prefer the variable."),
]
ModelArgument = Annotated[
    str, typer.Argument(help="An artifact or model folder, MODEL@ALIAS, or a served model's URL (…/v2/models/NAME).")
]


class OpenModel(Protocol):
    """Answers verbs."""

    def __call__(self, verb: str, image: bytes | list[bytes] | None = None, **keys: object) -> File:
        """Return the answer of `verb` to the request with `keys`; a key that is None is left out."""


def open_model(model: str, device: DeviceName, api_key: str | None) -> OpenModel:
    """Open a model of this machine or of a server.

    Raises:
        typer.BadParameter: `model` is a URL but not that of a model.
        ServingError: there is no sound artifact, or it does not run on `device`.
    """
    if not model.startswith(("http://", "https://")):
        from serving.local_model import LocalModel

        return LocalModel.load(model, device.value).fetch
    from serving.client import Client
    from serving.client_calls import Image
    from serving.retrying import BRIEF

    url, name = split_url(model)
    client = Client(url, api_key, retry=BRIEF)

    def fetch(verb: str, image: bytes | list[bytes] | None = None, **keys: object) -> File:
        files: list[Image] | bytes | None = list(image) if isinstance(image, list) else image
        return client.fetch(verb, name, files, **keys)

    return fetch


def split_url(model: str) -> tuple[str, str]:
    """Return the server's URL and the model's name of a model's URL, which may end in a verb as `serve` prints it.

    Raises:
        typer.BadParameter: the URL is not that of a model.
    """
    from serving.verb import VERBS

    url, _, path = model.rstrip("/").rpartition("/v2/models/")
    name, _, verb = path.partition("/")
    if not url or not name or verb not in ("", "infer", *VERBS.names()):
        raise typer.BadParameter(f"{model} is not a model's URL: it should end in /v2/models/NAME")
    return url, name


def write_file(path: Path, file: File) -> None:
    """Write `file` whole or not at all, since a file that exists counts as done.

    A link stays, and the file that it leads to is written. A pipe or a device stays too, and gets the content.

    Raises:
        OutputError: `path` is a folder.
        OSError: the file cannot be written.
    """
    from serving.errors import OutputError

    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file in it")
    if path.exists() and not path.is_file():
        path.write_bytes(file.content)
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".zorse-", dir=target.parent) as folder:
        part = Path(folder) / "part"
        part.write_bytes(file.content)
        part.replace(target)
