"""Export in five calls: read the snapshot, and build, wrap, convert and verify each network; then publish."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from export.bundle import Bundle, model_name, open_repository, publish
from export.errors import ImageSetError
from export.images import load_images
from export.manifest import SCHEMA_VERSION, Manifest, Proof, Source
from export.targets import base as targets
from export.targets.base import Target
from export.verify import verify
from export.wrapper import Wrapped, wrap
from trainer.snapshot import Snapshot, read_snapshot

Report = Callable[[str], None]
"""Takes one line of progress."""


def export(
    snapshot: str,
    repository: str,
    *,
    name: str | None = None,
    target: str = "onnx",
    images: str | None = None,
    report: Report = lambda line: None,
) -> list[Path]:
    """Turn every network of a snapshot into a proved artifact, and publish them once all are proved.

    `snapshot` is a snapshot's folder or a run's (then its newest one), `repository` a local folder, `name` the
    artifacts' name instead of the run's, and `images` a folder or zip of real images for the proofs of translators.
    Returns the artifacts' folders, `<repository>/<model>/<version>`.

    Raises:
        trainer.errors.TrainerError: the snapshot cannot be read or built.
        ExportError: unknown target, unusable images, a graph that cannot be exported, a failed proof, or a
            repository that cannot be written. Nothing was published, save where only the writing failed.
    """
    chosen, root, source = targets.find(target), open_repository(repository), read_snapshot(snapshot)
    bundles = []
    for network, entry in source.networks.items():
        model = model_name(name or source.name, entry.direction)
        wrapped = wrap(source.build(network), model)
        bundles.append(_prove(model, network, wrapped, source, chosen, images, report))
    return [publish(root, bundle) for bundle in bundles]


def _prove(
    model: str, network: str, wrapped: Wrapped, source: Snapshot, target: Target, images: str | None, report: Report
) -> Bundle:
    real = []
    if images is not None:
        if wrapped.size is None:
            raise ImageSetError(f"{model} is a generator and takes no images: leave --images out")
        real = load_images(images, int(wrapped.given.shape[-1]), wrapped.size, source.size)
    report(f"{model}: converting {network} to {target.name}")
    facts = _facts(model, network, wrapped, source)
    content = target.convert(wrapped.graph, wrapped.example, wrapped.given, wrapped.made, facts).SerializeToString()
    report(f"{model}: proving it against torch")
    proof = verify(model, content, wrapped, source.size, target.tolerance, real)
    return Bundle(_manifest(model, network, wrapped, source, target, proof), content)


def _facts(model: str, network: str, wrapped: Wrapped, source: Snapshot) -> dict[str, str]:
    """What stands in the ONNX file itself, for whoever meets it without its manifest."""
    facts = {
        "zorse.schema_version": SCHEMA_VERSION,
        "zorse.name": model,
        "zorse.task": source.task,
        "zorse.kind": wrapped.kind,
        "zorse.direction": source.networks[network].direction,
        "zorse.network": network,
        "zorse.snapshot_digest": source.digest,
        "zorse.images_seen": source.images_seen,
    }
    return {key: str(value) for key, value in facts.items() if value is not None}


def _manifest(model: str, network: str, wrapped: Wrapped, source: Snapshot, target: Target, proof: Proof) -> Manifest:
    return Manifest(
        name=model,
        version=0,
        task=source.task,
        kind=wrapped.kind,
        target=target.name,
        opset=target.opset,
        inputs=(wrapped.given,),
        outputs=(wrapped.made,),
        sha256="",
        nbytes=0,
        source=Source(source.digest, source.images_seen, source.ema, network, source.config),
        proof=proof,
        direction=source.networks[network].direction,
        size=wrapped.size,
        latent=wrapped.latent,
        zorse_version=_zorse_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _zorse_version() -> str:
    try:
        return metadata.version("zorse")
    except metadata.PackageNotFoundError:
        return ""
