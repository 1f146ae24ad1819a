from __future__ import annotations

import subprocess
import sys

CHECK = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
root = importlib.import_module("serving")
names = [module.name for module in pkgutil.walk_packages(root.__path__, "serving.")]
for name in names:
    if name not in {skipped!r}:
        importlib.import_module(name)
print(len(names))
"""


def imported(blocked: set[str], skipped: set[str]) -> int:
    code = CHECK.format(blocked=blocked, skipped=skipped)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_serving_needs_neither_torch_nor_the_trainer() -> None:
    blocked = {"torch", "torchvision", "deepspeed", "onnx", "onnxscript", "trainer", "zorse"}
    assert imported(blocked, set()) >= 18


def test_client_and_local_model_need_no_ray() -> None:
    ray_modules = {"builder", "deployment", "gateway", "reporter", "served_partners"}
    ray_modules |= {"batch.driver", "batch.ray_cluster"}
    assert imported({"ray", "torch", "onnx"}, {f"serving.{name}" for name in ray_modules}) >= 18


def test_server_sets_the_variables_of_ray_before_it_is_imported() -> None:
    """Ray reads them when it is imported: a server that imported it earlier could not connect to its own Ray."""
    code = "import sys, serving.app, serving.cli_serve; print([name for name in sys.modules if name == 'ray'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr
