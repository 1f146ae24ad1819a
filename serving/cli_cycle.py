"""The command `zorse cycle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli_endings import MEASURED, keys_of_ending
from serving.cli_models import DeviceName, DeviceOption, KeyOption, ModelArgument, open_model, write_file


def cycle(
    model: ModelArgument,
    image: Annotated[Path, typer.Argument(help="The image file.", exists=True, dir_okay=False)],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: the image, its translation and the way back (.png, .jpg, .webp, .zip, .npy), or "
            "the error (.json)."
        ),
    ],
    partner: Annotated[
        str | None,
        typer.Option(help="The name of the model that translates back.", show_default="that of the reverse direction"),
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
) -> None:
    """Translate an image and translate it back, and print what was lost."""
    from serving.errors import ServerError

    keys = keys_of_ending(out, MEASURED)
    answer = open_model(model, device, api_key)("cycle", image.read_bytes(), partner=partner, **keys)
    l1, psnr = (answer.headers.get(f"zorse-{name}") for name in ("l1", "psnr"))
    if l1 is None or psnr is None:
        raise ServerError(f"{model} answers cycle as no zorse server does: it states no error", 200, "protocol")
    write_file(out, answer)
    typer.echo(f"there and back in {out}: {l1} grey levels of mean difference, PSNR {psnr} dB")
