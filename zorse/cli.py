"""The front door for people: `zorse …`, assembled from the three stages' commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

import export.cli
import serving.cli
import trainer.cli
import trainer.cli_latent
from zorse.home import provide_home
from zorse.output import make_output_robust
from zorse.process import run_behind
from zorse_common.errors import FetchError, ZorseError

USER_ERRORS = (ZorseError, FetchError, OSError, MemoryError)

app = typer.Typer(
    help="Train GANs and CycleGANs, export them as proved ONNX artifacts, and serve them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
trainer.cli.register(app)
export.cli.register(app)
serving.cli.register(app)
latent = typer.Typer(
    help="Interpolate between latents of a generator, calculate with them, and find those of images.",
    no_args_is_help=True,
)
serving.cli.register_latent(latent)
trainer.cli_latent.register_latent(latent)
app.add_typer(latent, name="latent")


# Declared for the help alone: `guarded` takes the option from wherever it stands.
@app.callback()
def options(debug: bool = typer.Option(False, "--debug", help="Show the stack trace of an error.")) -> None:
    """Options of every command."""


@app.command()
def demo() -> None:
    """Train, export, serve and ask two small models: a GAN of digits and a CycleGAN of stripes."""
    from zorse.demo import run

    if not run():
        raise typer.Exit(1)


@app.command()
def doctor(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Check versions, devices, providers and Ray, and say how to fix what is wrong."""
    from zorse import doctor

    if not doctor.run(as_json=as_json):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    run_behind(lambda: guarded(_command, sys.argv[1:]))


def _command(args: Sequence[str]) -> None:
    provide_home()
    app(args=args)


def guarded(command: Callable[..., Any], words: Sequence[str]) -> None:
    """Run `command` on `words`; a user's error is one line and its own exit code, or with `--debug` a stack trace."""
    make_output_robust()
    try:
        command(args=[word for word in words if word != "--debug"])
    except USER_ERRORS as error:
        if "--debug" in words:
            raise
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code if isinstance(error, ZorseError) else 1)
