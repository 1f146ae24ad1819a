"""The README's commands run as written, on configs with tiny totals; its training commands name valid configs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
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
from serving.ports import free_port
from tests.serving.tiny import inverter_graph, inverter_manifest, write
from trainer.config_files import find_config, load_config
from trainer.tasks.build import check_fit

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (run|run in the background) -->\n```bash\n(.*?)```", re.DOTALL)
TRAIN = re.compile(r"^zorse train (.*)$", re.MULTILINE)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(3000):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            try:
                server.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        else:
            return
    pytest.fail("the server was not ready in time")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Return a working folder with the shipped configs, whose runs are shortened to 64 images."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for config in (tmp_path / "configs" / "train").glob("*.yaml"):
        text, count = re.subn(r"total_images: \d+", "total_images: 64", config.read_text(encoding="utf-8"))
        assert count == 1, config
        config.write_text(text, encoding="utf-8")
    return tmp_path


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme_commands_run(workplace: Path) -> None:
    blocks = BLOCK.findall(README)
    assert [kind for kind, _ in blocks] == ["run", "run in the background", "run"]
    # The documented port may be in use, so the commands run with an unused one.
    port = free_port()
    server = None
    try:
        for kind, text in blocks:
            commands = text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            if kind == "run":
                subprocess.run(["bash", "-euc", commands], cwd=workplace, env=_environment(), check=True)
            else:
                command = f"exec {commands.strip()} --port {port}"
                server = subprocess.Popen(["bash", "-c", command], cwd=workplace, env=_environment())
                _wait_until_ready(server, port)
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=300)
    assert (workplace / "digits.png").stat().st_size > 0
    with Image.open(workplace / "one.png") as answer:
        one = np.asarray(answer)
    np.testing.assert_array_equal(one, zorse.load(workplace / "repository" / "digits").generate(1, seed=7)[0, ..., 0])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme_python_runs(workplace: Path) -> None:
    (code,) = PYTHON.findall(README)
    check = "assert images.shape == (16, 32, 32, 1) and images.dtype == 'uint8', images.shape\n"
    subprocess.run([sys.executable, "-c", code + check], cwd=workplace, env=_environment(), check=True)


def test_translator_commands_run(workplace: Path) -> None:
    """README and docs/export.md show these commands after hours of training; here they run on a small artifact."""
    write(workplace / "repository", inverter_graph(), inverter_manifest("h2z-AtoB"))
    horse = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(horse).save(workplace / "horse.jpg")
    (translate,) = re.findall(r"^zorse translate .*$", README, re.MULTILINE)
    (verify,) = re.findall(
        r"^zorse verify .*$", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    promote = "zorse models promote repository h2z-AtoB@1 stable"
    commands = [translate, promote, verify.replace("--device cuda", "--device cpu")]
    subprocess.run(["bash", "-euc", "\n".join(commands)], cwd=workplace, env=_environment(), check=True)
    with Image.open(workplace / "translated" / "horse.png") as image:
        assert image.size == (60, 40)


def test_readme_train_commands_resolve() -> None:
    commands = TRAIN.findall(README.replace("\\\n", ""))
    assert len(commands) >= 2
    for command in commands:
        name, *words = shlex.split(command)
        config = load_config(find_config(name), [word for word in words if "=" in word])
        check_fit(config)
