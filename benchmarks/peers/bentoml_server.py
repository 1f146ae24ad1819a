"""BentoML with one model, which takes and answers raw bytes: `bentoml serve bentoml_server:Small` or `:Large`.

The length of the JSON of `infer` comes first in the body. The methods run on the event loop for the small model, where
a thread would cost more than the run, and in BentoML's threads for the large one.
"""

from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from work import DCGAN, OCTETS, RESNET, Model

Octets = Annotated[bytes, ContentType(OCTETS)]


def _infer(model: Model, body: bytes) -> bytes:
    answer, length = model.infer(body[4:], int.from_bytes(body[:4], "little"))
    return length.to_bytes(4, "little") + answer


@bentoml.service(workers=1, traffic={"timeout": 120, "max_concurrency": 1000}, metrics={"enabled": False})
class Small:
    """Serves the generator."""

    def __init__(self) -> None:
        self.model = Model(DCGAN)

    @bentoml.api(route="/verb")
    async def verb(self, body: Octets, /) -> Octets:
        """Answer a PNG."""
        return self.model.verb(body)

    @bentoml.api(route="/infer")
    async def infer(self, body: Octets, /) -> Octets:
        """Answer binary tensors."""
        return _infer(self.model, body)


@bentoml.service(workers=1, threads=1, traffic={"timeout": 120, "max_concurrency": 1000}, metrics={"enabled": False})
class Large:
    """Serves the translator."""

    def __init__(self) -> None:
        self.model = Model(RESNET)

    @bentoml.api(route="/verb")
    def verb(self, body: Octets, /) -> Octets:
        """Answer a PNG."""
        return self.model.verb(body)

    @bentoml.api(route="/infer")
    def infer(self, body: Octets, /) -> Octets:
        """Answer binary tensors."""
        return _infer(self.model, body)
