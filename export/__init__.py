"""Turns trained networks into proved artifacts.

This file is imported before every module that uses onnxruntime, here and in serving.
"""

import os

# Without this, onnxruntime writes an identifier and events to the home folder and sends them to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
