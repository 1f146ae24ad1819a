"""Runs a model in a bare onnxruntime loop: `python ort_loop.py MODEL THREADS SECONDS` prints runs per second."""

import sys
import time

import numpy as np
import onnxruntime
from work import DCGAN, LATENT, Model

name, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
model = Model(name, options)
draw = np.random.default_rng(0)
tensor = (
    draw.standard_normal((1, LATENT), np.float32)
    if name == DCGAN
    else draw.integers(0, 256, (1, 128, 128, 3), np.uint8)
)
for _ in range(3):
    model.run(tensor)
start, runs = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    model.run(tensor)
    runs += 1
print(runs / (time.perf_counter() - start))  # noqa: T201
