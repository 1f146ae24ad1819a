"""What must not become an artifact does not, and the error says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.errors import ProofError, UnsupportedGraphError
from export.pipeline import export
from export.targets import base as targets
from export.verify import verify
from export.wrapper import Wrapped, wrap
from trainer.snapshot import Network


class Tiny(nn.Module):
    """A generator of 4 x 4 images whose middle is `change`."""

    latent_dim, channels, size = 4, 3, 4

    def __init__(self, change: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.change = change
        self.layer = nn.Linear(4, 48)

    def forward(self, latent: Tensor) -> Tensor:
        made: Tensor = self.change(self.layer(latent)).reshape(-1, 3, 4, 4)
        return made


def _wrapped(change: Callable[[Tensor], Tensor] = torch.tanh, seed: int = 0) -> Wrapped:
    torch.manual_seed(seed)
    return wrap(Tiny(change).eval(), "tiny")


def _convert(wrapped: Wrapped, target: str = "onnx") -> bytes:
    model = targets.find(target).convert(wrapped.graph, wrapped.example, wrapped.given, wrapped.made, {})
    return model.SerializeToString()


@pytest.fixture(scope="module")
def sound() -> bytes:
    return _convert(_wrapped())


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize(
    ("change", "node"),
    [
        (lambda x: F.dropout(x, 0.5, training=True), "Dropout"),
        (lambda x: x + torch.randn_like(x), "RandomNormalLike"),
        (lambda x: x * torch.rand(x.shape[0], 1), "RandomUniform"),
    ],
    ids=["live dropout", "noise in forward", "random brightness"],
)
def test_a_graph_that_draws_random_numbers_is_refused(
    change: Callable[[Tensor], Tensor], node: str, target: str
) -> None:
    with pytest.raises(UnsupportedGraphError, match=rf"{node}\w* at .*Tiny"):
        _convert(_wrapped(change), target)


def test_dropout_that_follows_eval_is_exported() -> None:
    wrapped = _wrapped(nn.Sequential(nn.Dropout(0.5), nn.Tanh()))
    assert verify("tiny", _convert(wrapped), wrapped, 4, 1).max_grey_diff <= 1


def test_a_graph_that_fixes_a_dynamic_axis_is_refused() -> None:
    with pytest.raises(UnsupportedGraphError, match="cannot export"):
        _convert(_wrapped(lambda x: x.reshape(2, 48)))


def test_a_network_of_neither_kind_is_refused() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"odd \(Linear\) is neither a generator nor a translator"):
        wrap(nn.Linear(2, 2), "odd")


def test_statistics_of_the_batch_are_refused() -> None:
    wrapped = _wrapped(lambda x: torch.tanh(F.batch_norm(x, None, None, training=True)))
    with pytest.raises(ProofError):
        verify("tiny", _convert(wrapped), wrapped, 4, 1)


def test_an_image_that_depends_on_its_neighbours_is_refused() -> None:
    wrapped = _wrapped(lambda x: torch.tanh(x - x.mean(0, keepdim=True)))
    with pytest.raises(ProofError, match=r"tiny: in a batch of 3 an image is .* grey levels from what it is alone"):
        verify("tiny", _convert(wrapped), wrapped, 4, 1)


def test_other_weights_than_torch_s_are_refused(sound: bytes) -> None:
    with pytest.raises(ProofError, match=r"tiny: for input \(1, 4\) onnxruntime is up to \d+ grey levels from torch"):
        verify("tiny", sound, _wrapped(seed=1), 4, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_even_where_rounding_hides_them(sound: bytes, value: float) -> None:
    wrapped = _wrapped()
    with torch.no_grad():
        wrapped.graph.network.get_parameter("layer.bias").fill_(value)
    wrapped = dataclasses.replace(wrapped, graph=_untanh(wrapped))
    with pytest.raises(ProofError, match=r"tiny: for input \(1, 4\) 48 of 48 values of torch are not finite"):
        verify("tiny", sound, wrapped, 4, 1)


def _untanh(wrapped: Wrapped) -> nn.Module:
    wrapped.graph.network.change = nn.Identity()
    return wrapped.graph


def test_a_model_of_another_contract_is_refused(sound: bytes) -> None:
    wrapped = _wrapped()
    other = dataclasses.replace(wrapped, made=dataclasses.replace(wrapped.made, name="picture"))
    with pytest.raises(ProofError, match="the contract wants"):
        verify("tiny", sound, other, 4, 1)


def test_a_file_that_is_no_model_is_refused() -> None:
    with pytest.raises(ProofError, match="tiny: onnxruntime does not load the model"):
        verify("tiny", b"not a model", _wrapped(), 4, 1)


def test_a_failed_proof_publishes_nothing(make_snapshot: Callable[..., str], tmp_path: Path) -> None:
    generator = {"type": "dcgan_generator", "latent_dim": 8, "size": 16, "width": 4}
    place = make_snapshot(scale=float("nan"), generator=Network(generator))
    repository = tmp_path / "repository"
    with pytest.raises(ProofError, match=r"toy: .* not finite"):
        export(place, str(repository))
    assert not repository.exists()
