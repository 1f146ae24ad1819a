"""`zorse data`: look at a set of images before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from zorse_common.tables import print_json, print_table

if TYPE_CHECKING:
    from collections import Counter

    from serving.batch.input_files import InputFiles
    from trainer.dataset_view import DatasetView
    from zorse_common.data_report import DataReport, DeepGreys
    from zorse_common.files import ImageFiles

Place = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A folder, a zip, tar or Parquet file, a pattern such as 'a/**/*.png', or a URI.",
        show_default=False,
    ),
]
ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="BLACK WHITE", help="data.value_range: for greys of more than 8 bits.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SHOWN_FOLDERS = 8
_SHOWN_FILES = 5


def register_data(group: typer.Typer) -> None:
    """Add `info` and `preview` to `group`, the commands of `zorse data`."""
    group.command()(info)
    group.command()(preview)


def info(
    path: Place,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image, to find damaged ones. Otherwise headers are read.")
    ] = False,
    value_range: ValueRange = None,
    as_json: AsJson = False,
) -> None:
    """Say what a set of images holds: counts, sizes, depths, duplicates, what is left out, and what training takes."""
    from trainer.dataset_view import dataset_views
    from zorse_common.data_report import examine

    files, inputs = _open(path, value_range)
    columns = dict(inputs.columns) if inputs else {}
    with _progress(len(files.names)) as advance:
        report = examine(files, decode=decode, progress=advance)
    views = [] if inputs else list(dataset_views(files))
    if as_json:
        print_json(_document(files, report, views, decode) | {"columns": columns})
        return
    _print_report(files, report, views)
    if columns:
        print_table(("value", "kind"), list(columns.items()))
    if inputs:
        typer.echo("these are inputs for zorse translate: to train on them, unpack them to a folder")


def preview(
    path: Place,
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG file to write.")] = Path("preview.png"),
    count: Annotated[int, typer.Option(min=1, max=600, help="How many images, evenly spaced by name.")] = 24,
    value_range: ValueRange = None,
    as_json: AsJson = False,
) -> None:
    """Draw a contact sheet of a set of images, each as it is decoded for training."""
    from zorse_common.contact_sheet import contact_sheet, tile_of
    from zorse_common.errors import printable
    from zorse_common.files import FilesError, evenly_spaced, write_image

    files, _ = _open(path, value_range, is_measured=False)
    names = evenly_spaced(files.names, count)
    if not names:
        raise FilesError(f"{path} holds no images")
    with _progress(len(names)) as advance:
        tiles = []
        for name in names:
            tiles.append(tile_of(files, name))
            advance()
    write_image(output, contact_sheet(f"{printable(path)}: {len(names)} of {len(files.names)} images", tiles))
    if as_json:
        shown = [{"name": tile.caption, "detail": tile.detail, "reason": tile.reason or None} for tile in tiles]
        print_json({"schema": 1, "path": printable(path), "sheet": str(output), "images": shown})
        return
    for line in files.skipped:
        typer.echo(line, err=True)
    typer.echo(f"{output}: {len(names)} of {len(files.names)} images")


def _open(
    path: str, value_range: tuple[float, float] | None, *, is_measured: bool = True
) -> tuple[ImageFiles, InputFiles | None]:
    """Open a set of images. Archives that training does not read are opened as the inputs of a batch job."""
    from serving.batch.input_files import InputFiles, is_for_jobs_alone
    from serving.batch.sources.base import source_of
    from zorse_common.files import ImageFiles
    from zorse_common.globs import expanded, find_glob

    path = expanded(path)
    if source_of(path) in (None, "zip") or find_glob(path):
        files = ImageFiles(path, value_range=value_range)
        if not is_for_jobs_alone(files):
            return files, None
    inputs = InputFiles(path, is_measured=is_measured)
    return ImageFiles(path, value_range=value_range, files=inputs), inputs


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error if that is a terminal; the function that is yielded advances it by one file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=total)
        yield lambda: bar.advance(task)


def _print_report(files: ImageFiles, report: DataReport, views: list[DatasetView]) -> None:
    from zorse_common.errors import printable

    unreadable = f", {len(report.unreadable)} of them unreadable" if report.unreadable else ""
    left_out = f", {len(report.left_out)} other files left out" if report.left_out else ""
    size = _size(report.nbytes)
    place = f"{printable(files.root)} ({files.kind})"
    typer.echo(f"{place}: {report.images:,} images{unreadable}, {size}{left_out}\n")
    folders = [(name, str(count), _size(nbytes)) for name, (count, nbytes) in report.folders.items()]
    if len(folders) > _SHOWN_FOLDERS:
        rest = list(report.folders.values())[_SHOWN_FOLDERS:]
        more = (f"{len(rest)} more folders", str(sum(count for count, _ in rest)))
        folders[_SHOWN_FOLDERS:] = [(*more, _size(sum(nbytes for _, nbytes in rest)))]
    print_table(("folder", "images", "size"), folders)
    _print_quantiles(report)
    print_table(("images", ""), list(_facts(report)))
    print_table(("file", "reason"), list(_omissions(report)))
    print_table(("data.type", "domains", "what a run would take"), [_view_row(view) for view in views])


def _print_quantiles(report: DataReport) -> None:
    from zorse_common.data_report import SHARES, Quantiles

    counts = {"width": report.widths, "height": report.heights, "bytes of a file": report.file_sizes}
    rows = []
    for title, counter in counts.items():
        quantiles = Quantiles.of(counter)
        if quantiles is not None:
            rows.append((title, *(f"{value:,}" for value in quantiles.values)))
    print_table(("", *SHARES), rows)


def _facts(report: DataReport) -> Iterator[tuple[str, str]]:
    from zorse_common.files import some_of

    if report.formats:
        yield "formats", _listed(report.formats)
        yield "modes", _listed(report.modes)
        yield "depths", ", ".join(f"{bits} bits {count:,}" for bits, count in sorted(report.bits.items()))
    if report.turned:
        yield "turned upright", f"{report.turned} by their EXIF orientation; sizes are those after it"
    for kind, greys in report.deep_greys.items():
        yield f"{kind} greys", _greys_text(greys)
    if report.deep_colours:
        yield "deep colours", f"{report.deep_colours} of more than 8 bits a channel: their high byte is used"
    if report.duplicates:
        first = some_of(report.duplicates[0])
        copies = sum(len(group) - 1 for group in report.duplicates)
        across = sum(len({PurePosixPath(name).parent for name in group}) > 1 for group in report.duplicates)
        beyond = f", {across} of them across folders" if across else ""
        yield "duplicates", f"{copies} copies of {len(report.duplicates)} files{beyond}, such as {first}"


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else f"{value:g}"


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB" if nbytes >= 2**20 else f"{nbytes / 2**10:.1f} KiB"


def _greys_text(greys: DeepGreys) -> str:
    text = f"{greys.images} images"
    if greys.least is None or greys.most is None:
        return text
    text += f", values {_number(greys.least)} to {_number(greys.most)} in {greys.examined} examined"
    if greys.ranges:
        ranges = " or ".join(f"{_number(black)} to {_number(white)}" for black, white in sorted(greys.ranges))
        text += f"; mapped from {ranges} unless data.value_range is set"
    if greys.narrow:
        guess = f": is it data.value_range={list(greys.likely_range)}?" if greys.likely_range else ""
        text += f"; {greys.narrow} of those examined use under 1/16 of that{guess}"
    return text


def _omissions(report: DataReport) -> Iterator[tuple[str, str]]:
    """Yield the first files of each kind of omission with the reason, and how many more there are."""
    from zorse_common.errors import printable
    from zorse_common.files import some_of

    for name in list(report.unreadable)[:_SHOWN_FILES]:
        yield printable(name), f"unreadable: {report.unreadable[name]}"
    if len(report.unreadable) > _SHOWN_FILES:
        yield f"{len(report.unreadable) - _SHOWN_FILES} more", "unreadable (--json lists them)"
    for reason, names in _by_reason(report.left_out).items():
        yield some_of(names), f"left out: {reason}"


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        names.setdefault(reason, []).append(name)
    return names


def _view_row(view: DatasetView) -> tuple[str, str, str]:
    taken = ", ".join(f"{count} {collection}" for collection, count in view.collections.items())
    unused = f"; {view.unused} unused: {view.reason}" if view.unused else ""
    text = f"refused: {view.refused}" if view.refused else taken + unused
    classes = f", {view.classes} classes" if view.classes else ""
    return view.type, ", ".join(view.domains) + classes, text


def _document(files: ImageFiles, report: DataReport, views: list[DatasetView], decode: bool) -> dict[str, object]:
    """Return the document of `zorse data info --json`; docs/data.md describes it."""
    from dataclasses import asdict

    from zorse_common.data_report import SHARES, Quantiles
    from zorse_common.errors import printable

    def quantiles(counter: Counter[int]) -> dict[str, int] | None:
        found = Quantiles.of(counter)
        return dict(zip(SHARES, found.values, strict=True)) if found else None

    return {
        "schema": 1,
        "path": printable(files.root),
        "kind": files.kind,
        "decoded": decode,
        "images": report.images,
        "bytes": report.nbytes,
        "folders": {name: {"images": count, "bytes": nbytes} for name, (count, nbytes) in report.folders.items()},
        "formats": dict(report.formats),
        "modes": dict(report.modes),
        "bits": {str(bits): count for bits, count in sorted(report.bits.items())},
        "width": quantiles(report.widths),
        "height": quantiles(report.heights),
        "file_bytes": quantiles(report.file_sizes),
        "turned": report.turned,
        "deep_greys": {kind: _greys_document(greys) for kind, greys in report.deep_greys.items()},
        "deep_colours": report.deep_colours,
        "duplicates": [[printable(name) for name in group] for group in report.duplicates],
        "unreadable": {printable(name): reason for name, reason in report.unreadable.items()},
        "left_out": {printable(name): reason for name, reason in sorted(report.left_out.items())},
        "datasets": [asdict(view) for view in views],
    }


def _greys_document(greys: DeepGreys) -> dict[str, object]:
    return {
        "images": greys.images,
        "examined": greys.examined,
        "least": greys.least,
        "most": greys.most,
        "narrow": greys.narrow,
        "ranges": sorted(greys.ranges),
        "likely_range": greys.likely_range,
    }
