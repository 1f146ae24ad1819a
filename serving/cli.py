"""The serving commands: `serve`, `generate`, `translate`, `verify`."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zorse_common.errors import one_line, printable

if TYPE_CHECKING:
    from serving.schemas import ModelSummary


class DeviceName(StrEnum):
    """Where a model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_Device = Annotated[DeviceName, typer.Option(help="auto takes CUDA where there is a CUDA device.")]
_Key = Annotated[str | None, typer.Option(envvar="ZORSE_API_KEY", help="The key that requests must carry.")]
_Model = Annotated[
    str, typer.Argument(help="An artifact or model folder, MODEL@ALIAS, or a served model's URL (…/v2/models/NAME).")
]

_FORMATS: dict[str, Literal["png", "jpeg"]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


def register(app: typer.Typer) -> None:
    """Add the commands of this stage to `app`."""
    app.command()(serve)
    app.command()(generate)
    app.command()(translate)
    app.command()(verify)


def serve(
    repository: Annotated[str, typer.Argument(help="The folder or URI of artifacts: REPOSITORY/MODEL/VERSION/.")],
    host: Annotated[str, typer.Option(help="The address to listen on; other than loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    alias: Annotated[
        str | None, typer.Option(help="Serve the versions of this alias, such as stable.", show_default="the newest")
    ] = None,
    device: _Device = DeviceName.AUTO,
    replicas: Annotated[int, typer.Option(min=1, help="Processes per model.")] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Images that are run together at most.")] = 16,
    max_batch_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels of the source images that are run together at most; it bounds memory.")
    ] = 2**20,
    max_delay_ms: Annotated[float, typer.Option(min=0, help="How long an image waits for company.")] = 2.0,
    api_key: _Key = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a key.")] = False,
    high_throughput: Annotated[
        bool, typer.Option("--high-throughput", help="HAProxy in front; its ports are open to other machines.")
    ] = False,
) -> None:
    """Serve the models of a repository on Ray Serve until Ctrl-C."""
    from serving.app import serve_repository
    from serving.config import Batching, ServerSettings

    settings = ServerSettings(
        repository=repository,
        alias=alias,
        host=host,
        port=port,
        device=device.value,
        replicas=replicas,
        batching=Batching(max_size=max_batch, max_pixels=max_batch_pixels, max_delay_ms=max_delay_ms),
        api_key=api_key,
        insecure=insecure,
        high_throughput=high_throughput,
    )
    typer.echo(f"starting the models of {repository} …")
    address = f"[{host}]" if ":" in host else host
    serve_repository(settings, lambda models: _announce(f"http://{address}:{port}", models))
    typer.echo("stopped")


def generate(
    model: _Model,
    out: Annotated[Path, typer.Option(help="The image file to write: .png or .jpg.")],
    n: Annotated[int, typer.Option(min=1, help="How many images, in one grid.")] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: _Device = DeviceName.AUTO,
    api_key: _Key = None,
) -> None:
    """Write a grid of generated images."""
    from serving.codec import grid
    from serving.errors import OutputError

    if out.suffix.lower() not in _FORMATS:
        raise OutputError(f"{out} is no file that can be written: give a name that ends in {', '.join(_FORMATS)}")
    images = _open(model, device, api_key).generate(n, seed)
    _write(out, grid(images))
    typer.echo(f"{n} images of seed {seed} in {out}")


def translate(
    model: _Model,
    images: Annotated[list[Path], typer.Argument(help="The image files, and folders of them, to translate.")],
    out: Annotated[Path, typer.Option(help="The folder to write into; no file is replaced.")],
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="BLACK WHITE", help="The values of these in images of more than 8 bits."),
    ] = None,
    device: _Device = DeviceName.AUTO,
    api_key: _Key = None,
) -> None:
    """Translate image files, and those below folders. Each result has its image's name, as .png.

    Results that are there already stay as they are, so that the same command does what is missing. An image that cannot
    be translated is named and left out; the exit code is then 1.
    """
    from rich.console import Console
    from rich.progress import track

    from zorse_common.errors import ZorseError
    from zorse_common.images import check_range

    try:
        check_range(value_range)
    except ValueError as error:
        raise typer.BadParameter(f"--value-range: {error}") from error
    targets = _targets(images, out)
    missing = {path: target for path, target in targets.items() if not target.exists()}
    done, failed, console = len(targets) - len(missing), 0, Console(stderr=True)
    opened = _open(model, device, api_key) if missing else None
    for path, target in track(missing.items(), "translating", console=console, disable=len(missing) < 2):
        assert opened is not None
        try:
            _write(target, opened.translate_file(path, value_range))
        except (ZorseError, OSError) as error:
            failed += 1
            typer.echo(f"error: {printable(path)}: {one_line(error)}", err=True)
        else:
            typer.echo(f"{printable(path)} → {printable(target)}")
    if len(targets) > 1 or failed or done:
        typer.echo(f"{len(missing) - failed} of {len(targets)} images translated, {done} were there, {failed} failed")
    if failed:
        raise typer.Exit(1)


def verify(
    artifact: Annotated[str, typer.Argument(help="An artifact or model folder or URI, or MODEL@ALIAS.")],
    device: _Device = DeviceName.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove an artifact again where it lies: its files, its fields and its golden sample."""
    from serving.engine import resolve_device
    from serving.replay import verify as replay

    on = resolve_device(device.value)
    found = replay(artifact, on)
    manifest = found.artifact.manifest
    if as_json:
        from zorse_common.tables import print_json

        seconds = {name: getattr(found, f"{name}_seconds") for name in ("start", "first", "second")}
        proved = {"samples": found.samples, "buckets": found.buckets, "max_grey_diff": found.max_grey_diff}
        facts = {"model": manifest.name, "version": manifest.version, "target": manifest.target, "device": on}
        print_json(facts | proved | {"seconds": seconds})
        return
    typer.echo(f"{manifest.name} version {manifest.version} ({manifest.target}) is what was proved")
    typer.echo(f"files: {len(manifest.files)} whole; fields: as the model's own")
    golden = f"{found.samples} inputs"
    typer.echo(
        f"golden sample: {golden}; buckets: {found.buckets}; at most {found.max_grey_diff:g} grey levels apart on {on}"
    )
    typer.echo(
        f"session start {found.start_seconds * 1000:.0f} ms, first inference {found.first_seconds * 1000:.0f} ms, "
        f"second {found.second_seconds * 1000:.0f} ms"
    )


def _targets(images: list[Path], out: Path) -> dict[Path, Path]:
    """Return the file to write for each image; images of a folder keep their place in it."""
    from serving.errors import ImageError, OutputError
    from zorse_common.files import ImageFiles, left_out_line

    targets: dict[Path, Path] = {}
    for path in images:
        if path.is_dir():
            files = ImageFiles(str(path))
            if path.resolve() == out.resolve():
                raise OutputError(f"the results in {out} would be taken for images the next time: give another --out")
            # Results of another time are no images.
            names = [name for name in files.names if out.resolve() not in (path / name).resolve().parents]
            if not names:
                raise ImageError(f"there are no image files in {path}")
            targets |= {path / name: out / result for name, result in _png_names(names).items()}
            if line := left_out_line(files.left_out):
                typer.echo(f"{path}: {line}", err=True)
        elif path.is_file():
            targets[path] = out / f"{path.stem}.png"
        else:
            raise ImageError(f"there is no image file at {path}")
    sources: dict[Path, Path] = {}
    given = {os.path.realpath(path) for path in targets}
    for path, target in targets.items():
        if target in sources:
            raise OutputError(f"{sources[target]} and {path} would both become {target}: give each its own --out")
        if target.exists() and os.path.realpath(target) in given:
            raise OutputError(f"{target} is one of the images and would be taken for its result: give another --out")
        sources[target] = path
    return targets


def _png_names(names: Sequence[str]) -> dict[str, str]:
    """Return the name of the result of each image, which keeps the image's ending where two would be the same."""
    whole: set[str] = set()
    while True:
        results = {name: f"{name if name in whole else PurePosixPath(name).with_suffix('')}.png" for name in names}
        count = Counter(results.values())
        same = {name for name in names if count[results[name]] > 1} - whole
        if not same:
            return results
        whole |= same


class _Local:
    def __init__(self, model: str, device: DeviceName) -> None:
        from serving.service import LocalModel

        self._model = LocalModel.load(model, device.value)

    def generate(self, n: int, seed: int) -> Any:
        from serving.service import channels

        channels(self._model.manifest)
        return self._model.generate(n, seed)

    def translate_file(self, path: Path, value_range: tuple[float, float] | None) -> Any:
        from serving.codec import decode
        from serving.config import Limits
        from serving.service import channels

        wanted = channels(self._model.manifest)
        return self._model.translate(decode(path.read_bytes(), wanted, Limits(), value_range))


class _Remote:
    def __init__(self, model: str, api_key: str | None) -> None:
        from serving.client import Client

        url, _, path = model.rstrip("/").rpartition("/v2/models/")
        # What `zorse serve` prints ends in a verb.
        self._name, _, verb = path.partition("/")
        if not url or verb not in ("", "generate", "translate", "infer"):
            raise typer.BadParameter(f"{model} is not a model's URL: it should end in /v2/models/NAME")
        self._client = Client(url, api_key)

    def generate(self, n: int, seed: int) -> Any:
        return self._client.generate(self._name, n, seed)

    def translate_file(self, path: Path, value_range: tuple[float, float] | None) -> Any:
        return self._client.translate(self._name, path, value_range)


def _open(model: str, device: DeviceName, api_key: str | None) -> _Local | _Remote:
    return _Remote(model, api_key) if model.startswith(("http://", "https://")) else _Local(model, device)


def _write(path: Path, image: Any) -> None:
    from serving.codec import encode

    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a file that is there counts as done.
    with tempfile.TemporaryDirectory(prefix=".zorse-", dir=path.parent) as folder:
        part = Path(folder) / "part"
        part.write_bytes(encode(image, _FORMATS[path.suffix.lower()]))
        part.replace(path)


def _announce(url: str, models: list[ModelSummary]) -> None:
    width = max(len(model.name) for model in models)
    for model in models:
        verb = "generate" if model.kind == "generator" else "translate"
        typer.echo(f"{model.name:<{width}}  {url}/v2/models/{model.name}/{verb}")
    typer.echo(f"{'docs':<{width}}  {url}/docs")
