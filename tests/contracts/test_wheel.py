"""A wheel in a clean environment and folder carries its configs and data."""

from __future__ import annotations

import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_dry_runs_a_shipped_config(tmp_path: Path) -> None:
    wheels, empty = tmp_path / "wheels", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, *build], check=True)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    # The dependencies are the tests' own; their .pth files are not followed, so the checkout stays out of sight.
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    (wheel,) = wheels.glob("zorse-*.whl")
    subprocess.run([*pip, "--python", str(environment), "install", "--no-deps", str(wheel)], check=True)
    run = [str(environment / "bin" / "python"), "-m", "zorse", "train", "configs/train/digits.yaml", "--dry-run"]
    done = subprocess.run(run, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "one step on zeros" in done.stdout
    where = [str(environment / "bin" / "python"), "-c", "import trainer.data.digits as d; print(d.__file__)"]
    found = subprocess.run(where, cwd=empty, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(environment))
    bundled = packages / "trainer" / "data" / "bundled"
    assert (bundled / "mnist_5k.npz").is_file()
    assert (bundled / "README.md").is_file()
