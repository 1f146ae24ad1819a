"""The partner of a model: found by direction and origin, and opened from the same repository."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.manifest import Manifest
from serving import artifacts
from serving.codec import encode
from serving.errors import ArtifactError, BadRequestError, InvalidKeyError
from serving.local_model import LocalModel
from serving.partners import partner_name, partner_place
from tests.serving.apps import server
from tests.serving.tiny import inverter_graph, inverter_manifest, write

PHOTO = np.random.default_rng(0).integers(0, 256, (18, 21, 3), dtype=np.uint8)


def manifest(name: str, direction: str, digest: str = "cafe", version: int = 1) -> Manifest:
    whole = inverter_manifest(name, version)
    provenance = dataclasses.replace(whole.provenance, digest=digest)
    return dataclasses.replace(whole, direction=direction, provenance=provenance)


THERE, BACK = manifest("horses-AtoB", "AtoB"), manifest("horses-BtoA", "BtoA")


def test_partner_translates_back_and_is_of_the_same_snapshot() -> None:
    stranger = manifest("horses-BtoA", "BtoA", "beef")
    assert partner_name(THERE, [THERE, stranger, BACK]) == "horses-BtoA"
    assert partner_name(BACK, [THERE, BACK]) == "horses-AtoB"
    renamed = manifest("zebras", "BtoA")
    assert partner_name(THERE, [stranger, renamed]) == "zebras"


def test_partner_of_another_file_has_the_same_name_but_for_the_direction() -> None:
    there, back = manifest("maps-AtoB", "AtoB", "1"), manifest("maps-BtoA", "BtoA", "2")
    assert partner_name(there, [there, manifest("faces-BtoA", "BtoA", "3"), back]) == "maps-BtoA"
    assert partner_name(there, [there, manifest("faces-BtoA", "BtoA", "3")]) is None


def test_partner_of_domains_with_a_to_in_their_names() -> None:
    there, back = manifest("x", "phototomap"), manifest("y", "maptophoto")
    assert partner_name(there, [back]) == "y"
    assert partner_name(dataclasses.replace(there, direction=None), [back]) is None


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for entry in (THERE, BACK, manifest("horses-BtoA", "BtoA", version=2), manifest("other", "CtoD", "beef")):
        write(folder, inverter_graph(), entry)
    return folder


def test_partner_place_is_the_newest_version_in_the_same_repository(repository: Path) -> None:
    artifact = artifacts.load(repository / "horses-AtoB" / "1")
    assert Path(partner_place(artifact, None)) == repository / "horses-BtoA" / "2"
    assert Path(partner_place(artifact, "other")) == repository / "other" / "1"
    with pytest.raises(ArtifactError, match="has no model zebras: it has horses-AtoB, horses-BtoA, other"):
        partner_place(artifact, "zebras")
    with pytest.raises(BadRequestError, match="translates back what other does: name it with partner"):
        partner_place(artifacts.load(repository / "other"), None)


def test_partner_place_needs_a_repository(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "horses-AtoB" / "1", tmp_path / "1")
    with pytest.raises(ArtifactError, match="lies in no repository"):
        partner_place(artifacts.load(tmp_path / "1"), "horses-BtoA")


@pytest.mark.parametrize("name", ["", "horses-BtoA@1", "horses-BtoA@prod", "../horses-BtoA", "a" * 257])
def test_partner_is_the_name_of_a_model_everywhere(repository: Path, name: str) -> None:
    photo, message = encode(PHOTO, "png"), "partner: give the name of a model, without a version or an alias"
    model = LocalModel.load(repository / "horses-AtoB", "cpu", threads=1)
    with pytest.raises(InvalidKeyError, match=f"^{message}$"):
        model.call("cycle", photo, partner=name)
    with server(manifests=[THERE, BACK]) as client:
        answer = client.post("/v2/models/horses-AtoB/cycle", content=photo, params={"partner": name})
    assert (answer.status_code, answer.json()["error"]) == (422, f"query.{message}")


def test_local_model_cycles_through_the_partner_of_its_repository(repository: Path) -> None:
    model = LocalModel.load(repository / "horses-AtoB", "cpu", threads=1)
    source, there, back = model.call("cycle", encode(PHOTO, "png"), layout="zip")
    np.testing.assert_array_equal(there, 255 - PHOTO)
    np.testing.assert_array_equal(source, PHOTO)
    np.testing.assert_array_equal(back, PHOTO)
    assert model.call("cycle", [encode(PHOTO, "png")] * 2, format="json") == {"errors": [{"l1": 0, "psnr": "inf"}] * 2}
