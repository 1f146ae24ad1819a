"""`zorse models`: list, show, promote, delete, push and pull the artifacts of model repositories."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from export.errors import ExportError, RepositoryError
from zorse_common.tables import print_json, print_table

if TYPE_CHECKING:
    from export.interface import AxisLimits
    from export.manifest import Manifest, Proof, Provenance
    from export.repository import Repository

Place = Annotated[str, typer.Argument(metavar="REPO", help="The repository's folder or URI.", show_default=False)]
Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[@VERSION]", help="A model; without a version or alias the latest version.", show_default=False
    ),
]
Exact = Annotated[
    str, typer.Argument(metavar="MODEL@VERSION", help="A model, and a version or alias.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the group `models` to `app`."""
    models = typer.Typer(no_args_is_help=True, help="List, show, promote, delete and copy exported models.")
    models.command("list")(list_models)
    models.command("show")(show)
    models.command("promote")(promote)
    models.command("delete")(delete)
    models.command("push")(copy)
    models.command("pull", help="Copy a version, under its number, from another repository.")(copy)
    app.add_typer(models, name="models")


def list_models(repository: Place, as_json: AsJson = False) -> None:
    """List the models of a repository and their versions, the newest first."""
    opened = _open(repository)
    models = opened.models()
    rows, broken = [], []
    for model, manifests in models.manifests.items():
        names: dict[int, str] = {}
        # A model with broken aliases is listed without them.
        try:
            names = _names(opened, model)
        except ExportError as error:
            broken.append(str(error))
        rows += [_row(manifests[version], names.get(version, "")) for version in sorted(manifests, reverse=True)]
    titles = ("model", "version", "aliases", "task", "kind", "target", "size", "images seen")
    if as_json:
        print_json([dict(zip(titles, row, strict=True)) for row in rows])
    else:
        print_table(titles, rows)
    broken += [f"skipped {folder}: {reason}" for folder, reason in models.skipped.items()]
    if broken:
        raise RepositoryError("; ".join(broken))
    if not rows and not as_json:
        typer.echo(f"no models in {repository}")


def show(repository: Place, model: Name, as_json: AsJson = False) -> None:
    """Show what is known of a version: its tensors, limits, proof, source, files, licence and figures."""
    opened = _open(repository)
    name, version = opened.resolve(model)
    manifest, names = opened.manifest(name, version), _names(opened, name)
    if as_json:
        print_json(json.loads(manifest.to_json()) | {"aliases": names.get(version, "")})
        return
    _print_facts(("model", f"{name}@{version}"), _details(manifest, names.get(version, "none")))
    print_table(
        ("tensor", "way", "dtype", "shape", "values", "meaning"),
        [
            (tensor.name, way, tensor.dtype, _shape(tensor.shape), _interval(tensor.value_range), tensor.meaning)
            for way, tensors in (("in", manifest.interface.inputs), ("out", manifest.interface.outputs))
            for tensor in tensors
        ],
    )
    _print_facts(("proof", ""), _proof(manifest.proof, manifest.buckets))
    _print_facts(("provenance", ""), _provenance(manifest.provenance))
    files = [(name, mebibytes(entry.nbytes), entry.sha256) for name, entry in sorted(manifest.files.items())]
    print_table(("file", "size", "SHA-256"), files)
    print_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in manifest.metrics.items()])


def promote(
    repository: Place,
    model: Exact,
    alias: Annotated[str, typer.Argument(help="The alias, such as stable.", show_default=False)],
) -> None:
    """Make an alias name a version instead of any other."""
    opened = _open(repository)
    name, version = _resolve_exactly(opened, model)
    opened.promote(name, version, alias)
    typer.echo(f"{name}@{alias} is version {version} in {repository}")


def delete(
    repository: Place,
    model: Exact,
    alias: Annotated[bool, typer.Option("--alias", help="Delete the alias in MODEL@ALIAS, and no version.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
) -> None:
    """Delete a version that no alias names, or with --alias an alias."""
    opened = _open(repository)
    if alias:
        name, _, word = model.partition("@")
        opened.remove_alias(name, word)
        typer.echo(f"{model} names nothing in {repository} any more")
        return
    name, version = _resolve_exactly(opened, model)
    if not yes:
        typer.confirm(f"Delete {name}@{version} of {repository} for good?", abort=True)
    opened.delete(name, version)
    typer.echo(f"deleted {name}@{version} of {repository}")


def copy(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="The folder or URI of the repository to copy from.", show_default=False),
    ],
    model: Name,
    target: Annotated[
        str, typer.Argument(metavar="REPO", help="The folder or URI of the repository to copy to.", show_default=False)
    ],
    alias: Annotated[
        str | None, typer.Option(help="An alias for the copied version, set once it is complete.", show_default=False)
    ] = None,
) -> None:
    """Copy a version, under its number, to another repository."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    here, there = _open(source), _open(target)
    name, version = here.resolve(model)
    total = here.manifest(name, version).nbytes
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{name}@{version}", total=total)
        here.copy(name, version, there, alias=alias, progress=lambda file, nbytes: bar.update(task, advance=nbytes))
    typer.echo(f"{name}@{version} is in {target}" + (f" as {name}@{alias}" if alias else ""))


def _open(place: str) -> Repository:
    # Imported here, since `zorse --help` should not wait for pyarrow.
    from export.repository import Repository

    return Repository(place)


def _resolve_exactly(repository: Repository, name: str) -> tuple[str, int]:
    """Return the model and version that `name` means; a name without "@" is refused."""
    if "@" not in name:
        raise RepositoryError(f"{name} names no version: say which, as {name}@3 or {name}@latest")
    return repository.resolve(name)


def _names(repository: Repository, model: str) -> dict[int, str]:
    """Return the aliases of each version of `model`, with "latest", joined by commas."""
    from export.layout import LATEST

    names: dict[int, list[str]] = {repository.resolve(model)[1]: [LATEST]}
    for alias, version in sorted(repository.aliases(model).items()):
        names.setdefault(version, []).append(alias)
    return {version: ", ".join(words) for version, words in names.items()}


def _print_facts(titles: tuple[str, str], facts: dict[str, object]) -> None:
    """Print the facts that are known, each by its name."""
    print_table(titles, [(name, str(value)) for name, value in facts.items() if value])


def _row(manifest: Manifest, names: str) -> tuple[str, ...]:
    seen = _count(manifest.provenance.images_seen)
    kind = (manifest.task, manifest.interface.kind, manifest.target)
    return (manifest.name, str(manifest.version), names, *kind, mebibytes(manifest.nbytes), seen)


def _details(manifest: Manifest, names: str) -> dict[str, object]:
    interface = manifest.interface
    size, latent = interface.size, interface.latent
    return {
        "aliases": names,
        "task": manifest.task,
        "kind": manifest.interface.kind,
        "direction": manifest.direction,
        "heights": size and _limits(size.height),
        "widths": size and _limits(size.width),
        "scale": f"{interface.scale} times the source's height and width" if interface.scale > 1 else None,
        "latent": latent and f"{latent.dim} {latent.distribution} numbers",
        "labels": interface.labels and ", ".join(interface.labels),
        "target": manifest.target,
        "opset": str(manifest.opset),
        "nodes": _count(manifest.nodes),
        "graph digest": manifest.graph_digest,
        "weights digest": manifest.weights_digest,
        "licence": manifest.licence or "none stated",
        "zorse": manifest.zorse_version,
        "created": manifest.created,
    }


def _proof(proof: Proof, buckets: tuple[tuple[int, ...], ...]) -> dict[str, object]:
    cycle = proof.cycle
    return {
        "onnxruntime": proof.onnxruntime,
        "against": proof.reference,
        "largest difference": f"{proof.max_grey_diff:g} of {proof.tolerance:g} grey levels allowed",
        "99.9 % within": f"{proof.p999_grey_diff:g} grey levels",
        "PSNR": psnr_text(proof),
        "shapes": "  ".join(map(_shape, proof.shapes)),
        "fixed shapes": "  ".join(map(_shape, buckets)),
        "real images": _count(proof.real_images),
        "there and back": cycle
        and f"{cycle.onnxruntime:.2f} grey levels, {cycle.reference:.2f} with {proof.reference}",
    }


def _provenance(provenance: Provenance) -> dict[str, object]:
    return {
        "format": provenance.format,
        "network": provenance.network,
        "images seen": _count(provenance.images_seen),
        "weights": "moving average" if provenance.ema else "as trained",
        "digest": provenance.digest,
        "config digest": provenance.config_digest,
        "revision": provenance.revision,
    }


def _limits(axis: AxisLimits) -> str:
    return f"multiples of {axis.multiple} from {axis.legal(0)} to {axis.legal(axis.maximum)}"


def _shape(shape: tuple[int | str, ...]) -> str:
    return " x ".join(map(str, shape))


def _interval(bounds: tuple[float, float] | None) -> str:
    return "any" if bounds is None else f"{bounds[0]:g} to {bounds[1]:g}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def psnr_text(proof: Proof) -> str:
    """Return the PSNR of a proof for a table."""
    return "identical" if proof.psnr is None else f"{proof.psnr:.1f} dB"


def mebibytes(number: int) -> str:
    """Return a number of bytes for a table."""
    return f"{number / 2**20:.1f} MiB"
