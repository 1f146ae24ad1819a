"""MLServer's runtime of one model: KServe v2 with JSON tensors, as its REST has no binary ones, and a custom verb."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse
from starlette.requests import Request
from starlette.responses import Response
from work import Model


class Runtime(MLModel):
    """Serves the model of its name in MLServer's process."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = Model(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer tensors."""
        images = self.model.run(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("image", images)
        return InferenceResponse(model_name=self.name, outputs=[output])

    @custom_handler(rest_path="/verb")
    async def verb(self, request: Request) -> Response:
        """Answer a PNG."""
        return Response(self.model.verb(await request.body()), media_type="image/png")
