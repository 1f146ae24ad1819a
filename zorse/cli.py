"""The command line `zorse …`, assembled from the commands of the three stages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

import export.cli
import serving.cli
import trainer.cli
import trainer.cli_latent
from zorse.cli_data import register_data
from zorse.home import provide_home
from zorse.output import make_output_robust
from zorse.process import run_in_new_session
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
data = typer.Typer(help="Look at a set of images before it is used.", no_args_is_help=True)
register_data(data)
app.add_typer(data, name="data")
latent = typer.Typer(
    help="Interpolate between latents of a generator, calculate with them, and find the latents of images.",
    no_args_is_help=True,
)
serving.cli.register_latent(latent)
trainer.cli_latent.register_latent(latent)
app.add_typer(latent, name="latent")
bench = typer.Typer(help="Measure what a running server can do.", no_args_is_help=True)
serving.cli.register_bench(bench)
app.add_typer(bench, name="bench")


# Declared for the help text only: `run_guarded` removes --debug from any place on the command line.
@app.callback()
def options(debug: bool = typer.Option(False, "--debug", help="Show the stack trace of an error.")) -> None:
    """Declare the options of every command."""


@app.command()
def demo() -> None:
    """Train, export, serve and query two small models: a GAN of digits and a CycleGAN of stripes."""
    from zorse.demo import run_demo

    if not run_demo():
        raise typer.Exit(1)


@app.command()
def doctor(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Check versions, devices, providers and Ray, and say how to fix what is wrong."""
    from zorse import doctor

    if not doctor.diagnose(as_json=as_json):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    run_in_new_session(lambda: run_guarded(_command, sys.argv[1:]))


def _command(args: Sequence[str]) -> None:
    provide_home()
    app(args=args)


def run_guarded(command: Callable[..., Any], words: Sequence[str]) -> None:
    """Run `command` with the arguments `words`.

    An error that a user can cause (`USER_ERRORS`) is printed as one line on standard error, and the process exits with
    the error's exit code. With `--debug` among `words` the error is raised instead, with its stack trace.
    """
    make_output_robust()
    try:
        command(args=[word for word in words if word != "--debug"])
    except USER_ERRORS as error:
        if "--debug" in words:
            raise
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code if isinstance(error, ZorseError) else 1)
