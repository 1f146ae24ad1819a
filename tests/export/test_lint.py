"""The checks of a network before it is converted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.convert import convert
from export.errors import RefusedError, UnsupportedGraphError
from export.lint import trace
from export.wrapper import wrap
from tests.export.faults import FaultyGenerator, FaultyTranslator
from tests.export.networks import LARGEST, SIDE


def _reasons(network: nn.Module) -> list[str]:
    with pytest.raises(RefusedError, match="toy cannot be exported") as caught:
        trace(wrap(network.eval(), "toy", training_size=4), "toy")
    return [str(error) for error in caught.value.exceptions]


def test_trace_names_all_faults_at_once() -> None:
    def change(x: Tensor) -> Tensor:
        return F.dropout(x + torch.randn_like(x), training=True).double().float()

    assert _reasons(FaultyGenerator(change)) == [
        "randn_like at FaultyGenerator draws random numbers: make noise an input of the network",
        "dropout at FaultyGenerator is live: let dropout follow eval()",
        "to at FaultyGenerator computes in float64: keep the network in float32, targets change the precision",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_trace_refuses_one_weight_that_is_not_finite(value: float) -> None:
    network = FaultyGenerator()
    with torch.no_grad():
        network.layer.bias[3] = value
    assert _reasons(network) == ["weights are not finite (layer.bias): export an earlier snapshot"]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
        lambda x: x + torch.normal(0.0, 1.0, (1, 48)),
        lambda x: x + torch.empty_like(x).uniform_(),
        lambda x: F.rrelu(x, training=True),
        lambda x: x[:, torch.randperm(48)],
        lambda x: x + torch.empty_like(x).cauchy_(),
        lambda x: x + torch.empty_like(x).random_(),
        F.gumbel_softmax,
    ],
    ids=["bernoulli", "normal", "uniform", "rrelu", "randperm", "cauchy", "random", "gumbel"],
)
def test_trace_refuses_random_numbers(change: Any) -> None:
    assert any("draws random numbers" in reason for reason in _reasons(FaultyGenerator(change)))


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_trace_refuses_active_dropout(dropout: type[nn.Module]) -> None:
    class Live(dropout):  # type: ignore[misc, valid-type]
        def train(self, mode: bool = True) -> Any:
            return super().train(True)

    assert any(reason.endswith("let dropout follow eval()") for reason in _reasons(FaultyGenerator(Live(0.5))))
    trace(wrap(FaultyGenerator(dropout(0.5)), "toy", training_size=4), "toy")


def test_trace_refuses_active_dropout_within_attention() -> None:
    def attend(x: Tensor, dropped: float) -> Tensor:
        heads = x[:, None]
        return F.scaled_dot_product_attention(heads, heads, heads, dropout_p=dropped)[:, 0]

    (reason,) = _reasons(FaultyGenerator(lambda x: attend(x, 0.5)))
    assert reason.startswith("scaled_dot_product_attention at FaultyGenerator is live")
    trace(wrap(FaultyGenerator(lambda x: attend(x, 0.0)), "toy", training_size=4), "toy")


def test_trace_refuses_batch_norm_without_running_statistics() -> None:
    norm = nn.BatchNorm1d(48, track_running_stats=False)
    assert _reasons(FaultyGenerator(norm)) == [
        "batch_norm at change (BatchNorm1d) uses the statistics of the batch: use running ones, or instance norm"
    ]
    trace(wrap(FaultyGenerator(nn.BatchNorm1d(48)), "toy", training_size=4), "toy")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda image: (image, image), "it gives a tuple and should give one tensor of images"),
        (lambda image: image[0], r"its images are [3, 4, 4] and should be [2, 3, 4, 4]"),
        (lambda image: image[:, :1], r"its images are [2, 1, 4, 4] and should be [2, 3, 4, 4]"),
        (lambda image: image.nothing, "it does not run on (2, 4) ('Tensor' object has no attribute 'nothing')"),
    ],
    ids=["a tuple", "no batch", "other channels", "a mistake"],
)
def test_trace_refuses_outputs_that_are_no_images(made: Any, reason: str) -> None:
    class Odd(FaultyGenerator):
        def forward(self, latent: Tensor) -> Any:
            return made(super().forward(latent))

    assert _reasons(Odd()) == [reason]


def test_trace_refuses_a_layer_in_half_precision() -> None:
    assert any("computes in bfloat16" in reason for reason in _reasons(FaultyGenerator(lambda x: x.bfloat16().float())))


def test_convert_refuses_a_network_that_computes_with_shapes() -> None:
    traceable = wrap(
        FaultyTranslator(FaultyTranslator.Config(fault="sizes of tensors")), "toy", training_size=SIDE, max_size=LARGEST
    )
    with pytest.raises(
        UnsupportedGraphError, match=r"computes with shapes \(network/Shape.*: use interpolate\(scale_f"
    ):
        convert(trace(traceable, "toy"), traceable.interface)


def test_convert_refuses_missing_operators_in_one_line() -> None:
    traceable = wrap(FaultyGenerator(lambda x: torch.special.gammainc(x.abs() + 1, x.abs())), "toy", training_size=4)
    with pytest.raises(UnsupportedGraphError, match=r"^torch cannot export the network to ONNX: .*igamma.*$"):
        convert(trace(traceable, "toy"), traceable.interface)
