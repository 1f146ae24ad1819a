"""From a trained network to a proved artifact. Whoever uses onnxruntime here or in serving comes by this file first."""

import os

# onnxruntime would write an identifier and events to the home folder and send them to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
