"""The container image: what `deploy/Dockerfile` copies, installs and runs, as far as that shows without Docker."""

from __future__ import annotations

import re
import shlex
import site
import subprocess
import sys
import venv
from importlib.metadata import requires
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
STEPS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    if line and not line.startswith("#")
]
"""The instructions of the Dockerfile and their arguments."""


def steps(instruction: str) -> list[str]:
    return [arguments for name, arguments in STEPS if name == instruction]


def copied() -> list[tuple[list[str], str]]:
    """Return what is copied from the checkout, and to where."""
    words = [shlex.split(arguments) for arguments in steps("COPY")]
    return [(sources, target) for *sources, target in words if not sources[0].startswith("--from")]


def test_image_has_the_python_and_the_versions_that_are_tested() -> None:
    assert {base.split()[0] for base in steps("FROM")} == {"python:3.11-slim"}
    (install,) = (run for run in steps("RUN") if "pip install" in run)
    words = shlex.split(install)
    assert words[words.index("--constraint") + 1] == "/wheels/constraints.txt"
    assert (["constraints.txt"], "/wheels/") in copied()
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert words[-2:] == ["/wheels/*.whl", "ray[default]"]
    needed = [Requirement(text) for text in requires("ray") or [] if "extra" in text]
    names = {canonicalize_name(one.name) for one in needed if one.marker and one.marker.evaluate({"extra": "default"})}
    assert names
    assert sorted(names - {canonicalize_name(pin) for pin in pinned}) == []


def test_image_keeps_no_caches_and_runs_as_another_user_than_root() -> None:
    runs = steps("RUN")
    assert all("--no-cache-dir" in run for run in runs if "pip " in run)
    (packages,) = (run for run in runs if "apt-get install" in run)
    assert "--no-install-recommends" in packages
    assert packages.endswith("rm -rf /var/lib/apt/lists/*")
    (user,) = steps("USER")
    assert int(user) > 0
    assert any(f"useradd --create-home --uid {user} " in run for run in runs)
    assert [name for name, _ in STEPS].index("USER") > max(i for i, (name, _) in enumerate(STEPS) if name == "RUN")


@pytest.mark.slow
def test_wheel_of_the_image_works_in_a_clean_environment(tmp_path: Path) -> None:
    source, wheels, workplace = tmp_path / "source", tmp_path / "wheels", tmp_path / "workplace"
    workplace.mkdir()
    source.mkdir()
    for names, target in copied():
        for name in names if not target.startswith("/") else []:
            if (ROOT / name).is_dir():
                copytree(ROOT / name, source / target, ignore=ignore_patterns("__pycache__"))
            else:
                copy2(ROOT / name, source / target)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, *build], check=True)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    # The environment uses this one's dependencies. Their .pth files are not read, so the checkout is not importable.
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    (wheel,) = wheels.glob("zorse-*.whl")
    subprocess.run([*pip, "--python", str(environment), "install", "--no-deps", str(wheel)], check=True)

    def output(*words: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / words[0]), *words[1:]], cwd=workplace, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "one step on zeros" in output("python", "-m", "zorse", "train", "configs/train/digits.yaml", "--dry-run")
    assert "REPOSITORY" in output("zorse", "serve", "--help")
    locate = "import serving.builder, trainer.data.digits as d; print(serving.builder.__file__, d.__file__)"
    assert all(place.startswith(str(environment)) for place in output("python", "-c", locate).split())
    bundled = packages / "trainer" / "data" / "bundled"
    assert (bundled / "mnist_5k.npz").is_file()
    assert (bundled / "README.md").is_file()
