"""Foreign generators compute after their import, layer by layer, what they computed before; all else is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export.errors import ImporterError
from export.importers import base as importers
from export.pipeline import export
from tests.export.published import State, dcgan, resnet, run_dcgan, run_resnet, run_unet, unet
from trainer.models.blur import BlurDown, BlurUp
from trainer.snapshot import Snapshot, read_snapshot, write_snapshot
from zorse_common.storage import Storage

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d)
Run = Callable[[State, str, Tensor], list[Tensor]]


def _write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def _read(format_: str, path: Path) -> Snapshot:
    return importers.find(format_).read(path)


def _trace(network: nn.Module, given: Tensor) -> list[Tensor]:
    """What every layer of ours makes, in order; a norm's output stands for the convolution before it too."""
    seen: list[tuple[nn.Module, Tensor]] = []
    for module in network.modules():
        if isinstance(module, (*CONVOLUTIONS, *NORMS, BlurDown, BlurUp)):
            module.register_forward_hook(lambda module, given, made: seen.append((module, made.clone())))
    with torch.no_grad():
        last = network(given)
    followers = [module for module, _ in seen[1:]] + [None]
    return [
        made
        for (module, made), after in zip(seen, followers, strict=True)
        if not (isinstance(module, CONVOLUTIONS) and isinstance(after, NORMS))
    ] + [last]


def _same(snapshot: Snapshot, run: Run, state: State, norm: str, given: Tensor) -> None:
    """In float64: in float32 a norm over a few pixels amplifies what the order of a sum changes."""
    wide = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    ours, theirs = _trace(snapshot.build("G").double(), given.double()), run(wide, norm, given.double())
    assert len(ours) == len(theirs)
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6, msg=lambda text, i=index: f"layer {i}: {text}")


@pytest.fixture(autouse=True)
def _seeded_in_one_thread() -> Iterator[None]:
    """Networks this small are slower in several threads, much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("blocks", [6, 9])
def test_cyclegan_resnets_compute_the_same(tmp_path: Path, blocks: int, dropout: bool, norm: str) -> None:
    state = resnet(blocks, dropout=dropout, norm=norm)
    snapshot = _read("pytorch-cyclegan", _write(tmp_path / "horses" / "latest_net_G_A.pth", state))
    model = snapshot.networks["G"].model
    assert (model["blocks"], model["norm"], model["width"]) == (blocks, norm, 4)
    _same(snapshot, run_resnet, state, norm, torch.randn(2, 3, 16, 24))


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(("downs", "side"), [(5, 64), (7, 128), (8, 256)])
def test_unets_compute_the_same(tmp_path: Path, downs: int, side: int, norm: str) -> None:
    state = unet(downs, norm=norm)
    snapshot = _read("pytorch-cyclegan", _write(tmp_path / "facades" / "latest_net_G.pth", state))
    assert snapshot.networks["G"].model["depth"] == downs
    assert snapshot.networks["G"].size == 2**downs
    _same(snapshot, run_unet, state, norm, torch.randn(2, 3, side, side))


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("blur_up", [False, True])
@pytest.mark.parametrize("blur_down", [False, True])
@pytest.mark.parametrize("blocks", [4, 9])
def test_cut_resnets_compute_the_same(tmp_path: Path, blocks: int, blur_down: bool, blur_up: bool, norm: str) -> None:
    state = resnet(blocks, blur_down=blur_down, blur_up=blur_up, norm=norm, dropout=blocks == 4)
    snapshot = _read("cut", _write(tmp_path / "grumpycat" / "latest_net_G.pth", state))
    assert snapshot.task == "cut"
    model = snapshot.networks["G"].model
    assert model["downsampling"] == ("antialiased" if blur_down else "strided")
    assert model["upsampling"] == ("antialiased" if blur_up else "transposed")
    _same(snapshot, run_resnet, state, norm, torch.randn(2, 3, 16, 24))


@pytest.mark.parametrize(("layers", "size"), [(4, 32), (5, 64), (6, 128)])
def test_tutorial_generators_compute_the_same(tmp_path: Path, layers: int, size: int) -> None:
    state = dcgan(layers, latent=7)
    snapshot = _read("dcgan-tutorial", _write(tmp_path / "faces" / "netG_epoch_4.pth", state))
    assert (snapshot.name, snapshot.task, snapshot.networks["G"].size) == ("faces", "gan", size)
    assert snapshot.networks["G"].direction is None
    given = torch.randn(3, 7)
    _same(snapshot, run_dcgan, state, "batch", given)
    assert snapshot.build("G")(given).shape == (3, 3, size, size)


@pytest.mark.parametrize(
    ("make", "run"), [(lambda **norm: resnet(2, **norm), run_resnet), (lambda **n: unet(5, **n), run_unet)]
)
def test_old_files_compute_the_same(tmp_path: Path, make: Callable[..., State], run: Run) -> None:
    given = torch.randn(1, 3, 64, 64)
    recorded = make(norm="instance", statistics=True)
    for key, tensor in recorded.items():
        if key.endswith("running_var"):
            tensor.fill_(torch.nan)  # what does not count may be anything
    _same(_read("pytorch-cyclegan", _write(tmp_path / "a.pth", recorded)), run, recorded, "instance", given)
    biased = make(norm="batch", early_biases=True)
    uncounted = {key: tensor for key, tensor in biased.items() if not key.endswith("num_batches_tracked")}
    _same(_read("pytorch-cyclegan", _write(tmp_path / "b.pth", uncounted)), run, biased, "batch", given)


@pytest.mark.parametrize(
    "packed",
    [
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {f"_orig_mod.{key}": tensor for key, tensor in state.items()},
        lambda state: {"epoch": 7, "state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"netG": {f"module.{key}": tensor for key, tensor in state.items()}, "netD": {}},
        lambda state: {key: nn.Parameter(tensor) for key, tensor in state.items()},
    ],
    ids=["data parallel", "compiled", "state_dict", "netG", "parameters"],
)
def test_state_dict_is_found_under_usual_keys(tmp_path: Path, packed: Callable[[State], object]) -> None:
    state = resnet(1)
    plain = _read("pytorch-cyclegan", _write(tmp_path / "plain.pth", state))
    found = _read("pytorch-cyclegan", _write(tmp_path / "packed.pth", packed(state)))
    assert found.networks == plain.networks
    torch.testing.assert_close(found.weights, plain.weights, rtol=0, atol=0)


def test_state_dict_is_read_from_other_ways_to_save(tmp_path: Path) -> None:
    state = resnet(1, blur_down=True)
    plain = _read("cut", _write(tmp_path / "plain.pth", state))
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        torch.testing.assert_close(_read("cut", tmp_path / name).weights, plain.weights, rtol=0, atol=0)
    half = {key: tensor.half() for key, tensor in state.items()}
    rounded = {key: tensor.float() for key, tensor in half.items()}
    _same(_read("cut", _write(tmp_path / "half.pth", half)), run_resnet, rounded, "instance", torch.randn(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("file", "name", "task", "direction"),
    [
        ("horse2zebra_pretrained/latest_net_G.pth", "horse2zebra_pretrained", "cyclegan", None),
        ("day 2 night!/200_net_G_A.pth", "day-2-night", "cyclegan", "AtoB"),
        ("day2night/latest_net_G_B.pth", "day2night", "cyclegan", "BtoA"),
        ("downloads/horse2zebra.pth", "horse2zebra", "cyclegan", None),
        ("downloads/zebras_G_B.pth", "zebras_G_B", "cyclegan", "BtoA"),
        ("one/latest_net_G_B (1).pth", "one", "cyclegan", "BtoA"),
        ("one/latest_net_G_A - copy.pth", "one", "cyclegan", "AtoB"),
        ("one/netG_B_epoch_10.pth", "one", "cyclegan", "BtoA"),
        ("one/apples_A2B.pth", "apples_A2B", "cyclegan", "AtoB"),
        ("one/BtoA.pth", "one", "cyclegan", "BtoA"),
        ("one/AtoB_or_BtoA.pth", "AtoB_or_BtoA", "cyclegan", None),
        ("one/THING_A.pth", "THING_A", "cyclegan", None),
    ],
)
def test_file_name_decides_name_and_direction(
    tmp_path: Path, file: str, name: str, task: str, direction: str | None
) -> None:
    path = _write(tmp_path / file, resnet(1))
    snapshot = _read("pytorch-cyclegan", path)
    assert (snapshot.name, snapshot.task, snapshot.networks["G"].direction) == (name, task, direction)
    assert (snapshot.images_seen, snapshot.ema, snapshot.networks["G"].size, snapshot.config) == (0, False, 256, {})
    assert snapshot.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_unet_without_a_direction_is_of_pix2pix(tmp_path: Path) -> None:
    assert _read("pytorch-cyclegan", _write(tmp_path / "latest_net_G.pth", unet(5))).task == "pix2pix"
    assert _read("pytorch-cyclegan", _write(tmp_path / "latest_net_G_B.pth", unet(5))).task == "cyclegan"


def test_imported_snapshot_can_be_written_and_read(tmp_path: Path) -> None:
    state = unet(5, norm="batch")
    snapshot = _read("pytorch-cyclegan", _write(tmp_path / "latest_net_G.pth", state))
    again = read_snapshot(write_snapshot(Storage(tmp_path / "run"), snapshot))
    assert again.networks == snapshot.networks
    _same(again, run_unet, state, "batch", torch.randn(1, 3, 32, 32))


def test_formats_are_known_by_name() -> None:
    assert {"cut", "dcgan-tutorial", "pytorch-cyclegan"} <= set(importers.names())
    with pytest.raises(ImporterError, match=r"unknown format 'caffe'; known: .*pytorch-cyclegan"):
        importers.find("caffe")
    with pytest.raises(TypeError, match="'cut' is registered twice"):
        importers.register(importers.find("cut"))


def _refused(format_: str, path: Path) -> str:
    with pytest.raises(ImporterError) as caught:
        _read(format_, path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


class _Malicious:
    """What unpickling would run: it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("format_", ["cut", "dcgan-tutorial", "pytorch-cyclegan"])
def test_code_in_a_file_is_never_run(tmp_path: Path, format_: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "x.pth"
    state = {**resnet(1), "extra": _Malicious(trace)}
    torch.save(state, path)
    assert "save the generator's `state_dict()` alone" in _refused(format_, path)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert "save the generator's `state_dict()` alone" in _refused(format_, path)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(_Malicious(trace), protocol))
        _refused(format_, path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert trace.exists()


@pytest.mark.parametrize("format_", ["cut", "dcgan-tutorial", "pytorch-cyclegan"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path, format_: str) -> None:
    path = tmp_path / "x.pth"
    assert "cannot be read (No such file" in _refused(format_, path)
    assert "cannot be read (Is a directory" in _refused(format_, tmp_path)
    path.write_bytes(b"")
    assert "is empty" in _refused(format_, path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "neither a file of torch.save nor" in _refused(format_, path)
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 20)
    assert "not a valid safetensors file" in _refused(format_, tmp_path / "x.safetensors")
    whole = _write(path, resnet(1)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is broken" in _refused(format_, path)
    for entry, message in (("x/constants.pkl", "TorchScript"), ("holiday.jpg", "is broken")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, b"x")
        assert message in _refused(format_, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor and no state dict"),
        ([torch.zeros(3)], "holds a list"),
        ({}, "it has no tensors"),
        ({"state_dict": {}}, "it has no tensors"),
        ({"epoch": 3, "weights": torch.zeros(3)}, "'epoch' is no dense tensor"),
        ({3: torch.zeros(3)}, "'3' is no dense tensor"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is no dense tensor"),
    ],
)
def test_file_without_a_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    assert message in _refused("cut", _write(tmp_path / "x.pth", content))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    blurred = resnet(1, blur_down=True)
    assert "--from cut" in _refused("pytorch-cyclegan", _write(path, blurred))
    assert "no residual generator (it begins with main.0.weight)" in _refused("cut", _write(path, dcgan()))
    assert "no residual generator" in _refused("pytorch-cyclegan", _write(path, dcgan()))
    assert "not the tutorial's generator" in _refused("dcgan-tutorial", _write(path, resnet(1)))
    assert "stylegan2" in _refused("cut", _write(path, {"encoder.convs.0.0.weight": torch.zeros(1)}))
    assert "resnet_cat" in _refused("cut", _write(path, {"enc_content.model.0.conv.weight": torch.zeros(1)}))
    early = {"model.0.weight": torch.zeros(4, 3, 7, 7), "model.9.conv_block.0.weight": torch.zeros(1)}
    assert "early 2017" in _refused("pytorch-cyclegan", _write(path, early))
    discriminator = {f"model.{i}.weight": torch.zeros(4, 4, 4, 4) for i in (0, 2, 5, 8, 11)}
    assert "no residual generator" in _refused("pytorch-cyclegan", _write(path, discriminator))
    assert "256" in _refused("dcgan-tutorial", _write(path, dcgan(7)))
    other = {key: torch.ones(8, 1, 5, 5) / 25 if key == "model.7.filt" else tensor for key, tensor in blurred.items()}
    assert "model.7.filt" in _refused("cut", _write(path, other))


CASES = {
    "resnet": ("pytorch-cyclegan", lambda: resnet(1)),
    "resnet, batch, early": ("pytorch-cyclegan", lambda: resnet(1, norm="batch", dropout=True, early_biases=True)),
    "unet": ("pytorch-cyclegan", lambda: unet(5)),
    "unet, batch": ("pytorch-cyclegan", lambda: unet(5, norm="batch")),
    "cut": ("cut", lambda: resnet(1, blur_down=True, blur_up=True)),
    "dcgan": ("dcgan-tutorial", dcgan),
}


@pytest.mark.parametrize("case", CASES)
def test_tensors_missing_left_over_misshapen_or_not_finite_are_refused(tmp_path: Path, case: str) -> None:
    format_, make = CASES[case]
    state, path = make(), tmp_path / "x.pth"
    _read(format_, _write(path, state))
    assert "odd.weight" in _refused(format_, _write(path, {**state, "odd.weight": torch.zeros(1)}))
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        _refused(format_, _write(path, {name: other for name, other in state.items() if name != key}))
        _refused(format_, _write(path, {**state, key: torch.zeros(9)}))
        broken = tensor.clone()
        broken.view(-1)[0] = torch.nan
        assert key in _refused(format_, _write(path, {**state, key: broken}))


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    for key in ("model.4.weight", "model.4.bias", "model.11.conv_block.5.bias", "model.19.weight"):
        state = resnet(2)
        del state[key]
        assert key in _refused("pytorch-cyclegan", _write(tmp_path / "x.pth", state))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_weights_that_are_no_floats_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    state = resnet(1, norm="instance")
    state["model.4.weight"] = state["model.4.weight"].to(dtype)
    path = _write(tmp_path / "latest_net_G.pth", state)
    with pytest.raises(ImporterError, match=rf"model\.4\.weight is {dtype}: import the weights in floating point"):
        importers.find("pytorch-cyclegan").read(path)


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (resnet(1), "pytorch-cyclegan"),
        (unet(5), "pytorch-cyclegan"),
        (resnet(1, blur_down=True), "cut"),
        (dcgan(), "dcgan-tutorial"),
    ],
    ids=["resnet", "unet", "antialiased", "dcgan"],
)
def test_importer_is_recognised_by_the_tensors(tmp_path: Path, state: dict[str, torch.Tensor], name: str) -> None:
    assert importers.recognise(_write(tmp_path / "x.pth", state)).name == name


def test_unet_of_cut_is_imported(tmp_path: Path) -> None:
    path = _write(tmp_path / "winter" / "latest_net_G.pth", unet(5))
    ours, theirs = _read("cut", path), _read("pytorch-cyclegan", path)
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=0, atol=0)
    assert (ours.name, ours.task, ours.networks["G"].direction) == ("winter", "cut", None)


def test_direction_that_contradicts_the_file_name_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "latest_net_G_B.pth", resnet(1))
    with pytest.raises(ImporterError, match="is BtoA by its name: leave --direction out or rename the file"):
        export(str(path), str(tmp_path / "r"), direction="AtoB")
