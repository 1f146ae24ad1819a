"""LitServe with one model and one way of asking: `python litserve_server.py PORT MODEL verb|infer`.

LitServe reads JSON and forms; the annotation of raw bytes is FastAPI's, and saves both servers the base64. The length
of the JSON of `infer` comes first in the body, because the worker does not see the headers.
"""

import sys
from typing import Annotated, Any

import litserve
from fastapi import Body, Response
from work import OCTETS, Model


class Api(litserve.LitAPI):
    """Answers raw bytes with raw bytes."""

    def setup(self, device: str) -> None:
        """Load the model in the worker's process."""
        self.model = Model(sys.argv[2])

    def decode_request(self, request: Annotated[bytes, Body(media_type=OCTETS)]) -> bytes:
        """Return the body."""
        return request

    def predict(self, body: bytes) -> bytes:
        """Do the whole work."""
        if sys.argv[3] == "verb":
            return self.model.verb(body)
        answer, length = self.model.infer(body[4:], int.from_bytes(body[:4], "little"))
        return length.to_bytes(4, "little") + answer

    def encode_response(self, output: bytes) -> Any:
        """Return the answer."""
        return Response(output, media_type="image/png" if sys.argv[3] == "verb" else OCTETS)


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", log_level="warning", access_log=False, generate_client_file=False
    )
