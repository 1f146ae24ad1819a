"""Reads state dicts of other programs without running any code in their files."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from export.errors import ImporterError

_CONTAINERS = ("state_dict", "model_state_dict", "model", "netG", "generator")
# Prefixes that DataParallel or an enclosing module puts before every key.
_LEADING = re.compile(r"(module|net_?G(_[AB])?|generator|G(_[AB])?)\.")
# Infixes that torch.compile, FSDP and activation checkpointing put anywhere in keys.
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_GENERIC_NAME = re.compile(
    r"(((latest|\d+)_)?net_?G(_[AB])?(_epoch_\d+)?|generator|model|weights|checkpoint|state_dict|[AB](to|2)[AB])"
    r"([ _-]*(\(\d+\)|copy|kopie))*",
    re.IGNORECASE,
)
_DIRECTIONS = {"A": "AtoB", "B": "BtoA"}
# `G_A` and `net_G_B`, or `AtoB` and `B2A`; the letter is the source domain.
_DIRECTED = re.compile(r"(?:^|[^A-Za-z]|net)G_([AB])(?![A-Za-z0-9])|(?<![A-Za-z])([AB])(?:to|2)(?!\2)[AB](?![A-Za-z])")
_ALONE = "load it where it was made and save the generator's `state_dict()` alone"


@dataclass(frozen=True)
class ForeignStateDict:
    """A file's state dict and the SHA-256 of the file. `tensors` are on the CPU; floating point is float32."""

    path: Path
    tensors: dict[str, Tensor]
    digest: str

    @property
    def name(self) -> str:
        """A name for the model: the file's, or the folder's if the file's is generic, such as `latest_net_G.pth`."""
        stem = self.path.stem
        chosen = self.path.resolve().parent.name if _GENERIC_NAME.fullmatch(stem) else stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", chosen).strip("-._") or "imported"

    @property
    def direction(self) -> str | None:
        """Return "AtoB" or "BtoA" if the file's name says one of them, as `G_A` or `BtoA`, and not both; else None."""
        letters = {match[1] or match[2] for match in _DIRECTED.finditer(self.path.stem)}
        return _DIRECTIONS[letters.pop()] if len(letters) == 1 else None


def read_state_dict(path: Path) -> ForeignStateDict:
    """Read the state dict in `path`, a file of `torch.save` or (`*.safetensors`) of safetensors.

    It may lie under a key such as "state_dict" or "netG", and its keys may have the prefix of a wrapper.

    Raises:
        ImporterError: there is no such file, it cannot be read, needs pickle, or holds anything but one state dict.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImporterError(
            f"{path} cannot be read ({error.strerror}): give the file with the generator's weights"
        ) from error
    if not content:
        raise ImporterError(f"{path} is empty: copy it again")
    loaded = _safetensors(path, content) if path.suffix == ".safetensors" else _torch(path, content)
    tensors = {
        key: tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        for key, tensor in _unwrapped(_state_dict(path, loaded)).items()
    }
    return ForeignStateDict(path, tensors, hashlib.sha256(content).hexdigest())


def _safetensors(path: Path, content: bytes) -> Mapping[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_safetensors(content)
    except SafetensorError as error:
        raise ImporterError(f"{path} is not a valid safetensors file ({error}): copy or save it again") from error
    return tensors


def _torch(path: Path, content: bytes) -> object:
    if not content.startswith((b"PK", b"\x80")):  # a zip file, or the pickles of PyTorch before 1.6
        raise ImporterError(f"{path} is neither a file of torch.save nor named *.safetensors: give another file")
    if _is_torchscript(content):
        raise ImporterError(f"{path} is a TorchScript archive, which is code: {_ALONE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickle does not help someone who imports a file
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ImporterError(
            f"{path} holds more than tensors, and only running it as code would read it: {_ALONE}"
        ) from error
    except Exception as error:  # what broken bytes make torch raise has no common base
        raise ImporterError(f"{path} is broken or not a file of torch.save: copy or save it again") from error


def _is_torchscript(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _state_dict(path: Path, loaded: object) -> dict[str, Tensor]:
    """Return `loaded` itself, or the state dict in it under one of the usual keys."""
    if not isinstance(loaded, Mapping):
        raise ImporterError(f"{path} holds a {type(loaded).__name__} and no state dict: {_ALONE}")
    inner = [value for key in _CONTAINERS if isinstance(value := loaded.get(key), Mapping)]
    state: Mapping[object, object] = inner[0] if len(inner) == 1 else loaded
    tensors = {
        key: value
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, Tensor) and _is_dense(value)
    }
    odd = [key for key in state if key not in tensors]
    if odd or not tensors:
        what = f"{str(odd[0])[:80]!r} is no dense tensor" if odd else "it has no tensors"
        raise ImporterError(f"{path} holds no state dict ({what}): {_ALONE}")
    return tensors


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` without the prefixes of wrappers, in any order and number."""
    for infix in _ANYWHERE:
        tensors = {key.replace(infix, ""): tensor for key, tensor in tensors.items()}
    while (match := _LEADING.match(next(iter(tensors)))) and all(key.startswith(match[0]) for key in tensors):
        tensors = {key.removeprefix(match[0]): tensor for key, tensor in tensors.items()}
    return tensors
