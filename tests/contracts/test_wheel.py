"""The wheel contains the configs and data: it works in a clean environment and folder."""

from __future__ import annotations

import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_wheel_dry_runs_a_shipped_config(tmp_path: Path) -> None:
    wheels, workplace = tmp_path / "wheels", tmp_path / "workplace"
    workplace.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, *build], check=True)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    # The environment uses this one's dependencies. Their .pth files are not read, so the checkout is not importable.
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    (wheel,) = wheels.glob("zorse-*.whl")
    subprocess.run([*pip, "--python", str(environment), "install", "--no-deps", str(wheel)], check=True)
    dry_run = [str(environment / "bin" / "python"), "-m", "zorse", "train", "configs/train/digits.yaml", "--dry-run"]
    result = subprocess.run(dry_run, cwd=workplace, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "one step on zeros" in result.stdout
    locate = [str(environment / "bin" / "python"), "-c", "import trainer.data.digits as d; print(d.__file__)"]
    module_path = subprocess.run(locate, cwd=workplace, capture_output=True, text=True, check=True).stdout
    assert module_path.startswith(str(environment))
    bundled = packages / "trainer" / "data" / "bundled"
    assert (bundled / "mnist_5k.npz").is_file()
    assert (bundled / "README.md").is_file()
