"""Small snapshots of real models, and one export of each that the tests read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from export.pipeline import export
from tests.export.networks import GENERATOR, LARGEST, SIDE, TRANSLATOR, build, fit, write_pictures
from trainer.snapshot import Network, Snapshot, write_snapshot
from zorse_common.storage import Storage

MakeSnapshot = Callable[..., str]
BUCKET = (2, 16, 24, 3)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower in several threads, much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_snapshot(tmp_path_factory: pytest.TempPathFactory) -> MakeSnapshot:
    """Writes a snapshot of networks, fitted for `steps`, and returns its place."""

    def make(task: str = "gan", steps: int = 0, **networks: Network) -> str:
        weights = {
            name: fit(build(network.model), steps=steps, seed=seed).state_dict()
            for seed, (name, network) in enumerate(networks.items())
        }
        config = {"run": {"seed": 0, "revision": "0123abc"}}
        place = Storage(str(tmp_path_factory.mktemp("run")))
        return write_snapshot(place, Snapshot("toy", task, 640, True, networks, config, weights))

    return make


@pytest.fixture(scope="session")
def gan(make_snapshot: MakeSnapshot) -> str:
    """The place of a snapshot with one generator of 16 x 16 images."""
    return make_snapshot(generator=Network(GENERATOR, None, 16), steps=30)


@pytest.fixture(scope="session")
def cyclegan(make_snapshot: MakeSnapshot) -> str:
    """The place of a snapshot with two translators, fitted."""
    return make_snapshot(
        "cyclegan", A2B=Network(TRANSLATOR, "AtoB", SIDE), B2A=Network(TRANSLATOR, "BtoA", SIDE), steps=40
    )


@pytest.fixture(scope="session")
def translator(make_snapshot: MakeSnapshot) -> str:
    """The place of a snapshot with one translator, fitted."""
    return make_snapshot("pix2pix", G=Network(TRANSLATOR, "AtoB", SIDE), steps=40)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three real images."""
    return write_pictures(tmp_path_factory.mktemp("images") / "smooth")


@pytest.fixture(scope="session")
def generator(gan: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a generator."""
    (artifact,) = export(gan, str(tmp_path_factory.mktemp("repository")))
    return Path(artifact)


@pytest.fixture(scope="session")
def pair(cyclegan: str, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The artifacts of a CycleGAN, with every optional field of the manifest."""
    artifacts = export(
        cyclegan,
        str(tmp_path_factory.mktemp("repository")),
        images=str(pictures),
        max_size=LARGEST,
        buckets=[BUCKET],
        licence="CC0",
        metrics={"fid": 12.5},
    )
    return [Path(artifact) for artifact in artifacts]
