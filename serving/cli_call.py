"""The command on any verb: `zorse call`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli_endings import check_ending
from serving.cli_models import DeviceName, DeviceOption, KeyOption, ModelArgument, open_model, write_file


def call(
    model: ModelArgument,
    verb: Annotated[str, typer.Argument(help="The verb, such as interpolate, or one of your own.")],
    out: Annotated[Path, typer.Option(help="The file to write. Its ending is that of the answer's format.")],
    keys: Annotated[
        list[str] | None, typer.Argument(help="The verb's keys as key=value; a repeated key is a list.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image file, for verbs that take images; repeat it for several.")
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
) -> None:
    """Call any verb of a model and write its answer."""
    values: dict[str, list[str]] = {}
    for text in keys or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not of the form key=value")
        values.setdefault(key, []).append(value)
    contents = [path.read_bytes() for path in image] if image else None
    single = {key: entries[0] if len(entries) == 1 else entries for key, entries in values.items()}
    answer = open_model(model, device, api_key)(verb, contents, **single)
    check_ending(out, answer.media_type)
    write_file(out, answer)
    typer.echo(f"{answer.media_type} in {out}")
