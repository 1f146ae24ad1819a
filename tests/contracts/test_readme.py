"""The README's blocks marked `run` work as written, with tiny totals (ZORSE_SMOKE=1); the others name sound configs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zorse
from trainer import registry
from trainer.config import find_config, load_config
from trainer.tasks.build import check_fit

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (run|run in the background) -->\n```bash\n(.*?)```", re.DOTALL)
TRAIN = re.compile(r"^zorse train (.*)$", re.MULTILINE)
READY = "http://127.0.0.1:8000/v2/health/ready"


def _wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(READY, timeout=2).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            try:
                server.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        else:
            return
    pytest.fail("the server was not ready in time")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_readme_runs(tmp_path: Path) -> None:
    blocks = BLOCK.findall(README)
    assert [kind for kind, _ in blocks] == ["run", "run in the background", "run"]
    environment = os.environ | {"ZORSE_SMOKE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    server = None
    try:
        for kind, commands in blocks:
            if kind == "run":
                subprocess.run(["bash", "-euc", commands], cwd=tmp_path, env=environment, check=True)
            else:
                server = subprocess.Popen(["bash", "-c", f"exec {commands.strip()}"], cwd=tmp_path, env=environment)
                _wait_until_ready(server)
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
    assert (tmp_path / "digits.png").stat().st_size > 0
    with Image.open(tmp_path / "one.png") as answer:
        one = np.asarray(answer)
    np.testing.assert_array_equal(one, zorse.load(tmp_path / "repository" / "digits").generate(1, seed=7)[0, ..., 0])


def test_every_train_command_resolves() -> None:
    commands = TRAIN.findall(README.replace("\\\n", ""))
    assert len(commands) >= 2
    for command in commands:
        name, *words = shlex.split(command)
        config = load_config(find_config(name), [word for word in words if "=" in word])
        registry.resolved(config)
        check_fit(config)
