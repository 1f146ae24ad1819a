"""The serving commands as a program of their own: `python -m tests.serving.command serve …`."""

import typer

from serving.cli import register

if __name__ == "__main__":
    app = typer.Typer()
    register(app)
    app()
