"""The serving commands: `serve`, `generate`, `translate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serving.schemas import ModelSummary


class DeviceName(StrEnum):
    """Where a model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_Device = Annotated[DeviceName, typer.Option(help="auto takes CUDA where there is a CUDA device.")]
_Key = Annotated[str | None, typer.Option(envvar="ZORSE_API_KEY", help="The key that requests must carry.")]
_Model = Annotated[str, typer.Argument(help="An artifact or model folder, or a served model's URL (…/v2/models/NAME).")]


def register(app: typer.Typer) -> None:
    """Add the commands of this stage to `app`."""
    app.command()(serve)
    app.command()(generate)
    app.command()(translate)


def serve(
    repository: Annotated[Path, typer.Argument(help="The folder of artifacts: REPOSITORY/MODEL/VERSION/.")],
    host: Annotated[str, typer.Option(help="The address to listen on; other than loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    device: _Device = DeviceName.AUTO,
    replicas: Annotated[int, typer.Option(min=1, help="Processes per model.")] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Images that are run together at most.")] = 16,
    max_delay_ms: Annotated[float, typer.Option(min=0, help="How long an image waits for company.")] = 2.0,
    api_key: _Key = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a key.")] = False,
    high_throughput: Annotated[
        bool, typer.Option("--high-throughput", help="HAProxy in front; its ports are open to other machines.")
    ] = False,
) -> None:
    """Serve every model of a repository on Ray Serve until Ctrl-C."""
    with _one_line_errors():
        from serving.app import serve_repository
        from serving.config import Batching, ServerSettings

        settings = ServerSettings(
            repository=str(repository),
            host=host,
            port=port,
            device=device.value,
            replicas=replicas,
            batching=Batching(max_size=max_batch, max_delay_ms=max_delay_ms),
            api_key=api_key,
            insecure=insecure,
            high_throughput=high_throughput,
        )
        typer.echo(f"starting the models of {repository} …")
        serve_repository(settings, lambda models: _announce(f"http://{host}:{port}", models))
        typer.echo("stopped")


def generate(
    model: _Model,
    out: Annotated[Path, typer.Option(help="The image file to write.")],
    n: Annotated[int, typer.Option(min=1, help="How many images, in one grid.")] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: _Device = DeviceName.AUTO,
    api_key: _Key = None,
) -> None:
    """Write a grid of generated images."""
    with _one_line_errors():
        from serving.codec import grid

        images = _open(model, device, api_key).generate(n, seed)
        _write(out, grid(images))
        typer.echo(f"{n} images of seed {seed} in {out}")


def translate(
    model: _Model,
    images: Annotated[list[Path], typer.Argument(help="The image files to translate.")],
    out: Annotated[Path, typer.Option(help="The folder to write into; the names stay, as .png.")],
    device: _Device = DeviceName.AUTO,
    api_key: _Key = None,
) -> None:
    """Translate image files; each result has its image's size and name."""
    with _one_line_errors():
        opened = _open(model, device, api_key)
        for path in images:
            target = out / f"{path.stem}.png"
            _write(target, opened.translate_file(path))
            typer.echo(f"{path} → {target}")


class _Local:
    def __init__(self, model: str, device: DeviceName) -> None:
        from serving.service import LocalModel

        self._model = LocalModel.load(model, device.value)

    def generate(self, n: int, seed: int) -> Any:
        return self._model.generate(n, seed)

    def translate_file(self, path: Path) -> Any:
        from serving.codec import decode
        from serving.config import Limits
        from serving.service import channels

        return self._model.translate(decode(path.read_bytes(), channels(self._model.manifest), Limits()))


class _Remote:
    def __init__(self, model: str, api_key: str | None) -> None:
        from serving.client import Client

        url, _, self._name = model.rstrip("/").rpartition("/v2/models/")
        if not url:
            raise typer.BadParameter(f"{model} is not a model's URL: it should end in /v2/models/NAME")
        self._client = Client(url, api_key)

    def generate(self, n: int, seed: int) -> Any:
        return self._client.generate(self._name, n, seed)

    def translate_file(self, path: Path) -> Any:
        return self._client.translate(self._name, path)


def _open(model: str, device: DeviceName, api_key: str | None) -> _Local | _Remote:
    return _Remote(model, api_key) if model.startswith(("http://", "https://")) else _Local(model, device)


def _write(path: Path, image: Any) -> None:
    from serving.codec import encode

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, "jpeg" if path.suffix.lower() in {".jpg", ".jpeg"} else "png"))


def _announce(url: str, models: list[ModelSummary]) -> None:
    width = max(len(model.name) for model in models)
    for model in models:
        verb = "generate" if model.kind == "generator" else "translate"
        typer.echo(f"{model.name:<{width}}  {url}/v2/models/{model.name}/{verb}")
    typer.echo(f"{'docs':<{width}}  {url}/docs")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from serving.errors import ServingError

    try:
        yield
    except (ServingError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
