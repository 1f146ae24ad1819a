"""The hand-written server: FastAPI, uvicorn and onnxruntime in one process, two models.

The small model runs on the event loop, where a thread would cost more than the run; the large one in one thread.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI, Request, Response
from work import DCGAN, HEADER_LENGTH, OCTETS, RESNET, Model

app = FastAPI()
small, large = Model(DCGAN), Model(RESNET)
thread = ThreadPoolExecutor(1)


@app.get("/ready")
async def ready() -> None:
    """Answer when both models are loaded."""


@app.post(f"/v2/models/{DCGAN}/generate")
async def generate(request: Request) -> Response:
    """Answer a PNG."""
    return Response(small.verb(await request.body()), media_type="image/png")


@app.post(f"/v2/models/{RESNET}/translate")
async def translate(request: Request) -> Response:
    """Answer a PNG."""
    body = await request.body()
    return Response(await asyncio.get_running_loop().run_in_executor(thread, large.verb, body), media_type="image/png")


@app.post(f"/v2/models/{DCGAN}/infer")
async def infer_small(request: Request) -> Response:
    """Answer binary tensors."""
    body, length = small.infer(await request.body(), int(request.headers[HEADER_LENGTH]))
    return Response(body, media_type=OCTETS, headers={HEADER_LENGTH: str(length)})


@app.post(f"/v2/models/{RESNET}/infer")
async def infer_large(request: Request) -> Response:
    """Answer binary tensors."""
    body, length = await request.body(), int(request.headers[HEADER_LENGTH])
    answer, length = await asyncio.get_running_loop().run_in_executor(thread, large.infer, body, length)
    return Response(answer, media_type=OCTETS, headers={HEADER_LENGTH: str(length)})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
