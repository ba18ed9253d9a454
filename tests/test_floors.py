"""Promises of the architecture: the command line loads no torch, and nothing needs torchvision."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "regatta"
LIGHT = ("core", "config", "records", "orchestrate", "analysis", "report", "cli")
HEAVY = {"torch", "transformers"}


def loaded_modules(code: str) -> set[str]:
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(child.stdout.split())


def test_importing_the_command_line_loads_no_torch():
    assert loaded_modules("import regatta.cli.main").isdisjoint(HEAVY)


def test_importing_the_command_line_loads_no_slow_library():
    slow = {"pandas", "pyarrow", "scipy", "matplotlib", "numpy", "statsmodels", "av"}
    assert loaded_modules("import regatta.cli.main").isdisjoint(slow)


@pytest.mark.parametrize("package", LIGHT)
def test_no_module_of_the_light_tower_loads_torch(package: str):
    modules = [
        ".".join(("regatta", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in (PACKAGE / package).rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert modules
    assert loaded_modules("\n".join(f"import {module}" for module in modules)).isdisjoint(HEAVY)


def test_nothing_asks_for_torchvision():
    # Beside CPU torch an installed torchvision breaks the video models of transformers.
    assert not [line for line in requires("regatta") or [] if re.match("torchvision|timm", line)]
    importing = re.compile(r"^\s*(import|from) (torchvision|timm)", re.MULTILINE)
    assert not [path for path in PACKAGE.rglob("*.py") if importing.search(path.read_text())]


def test_nothing_unpickles():
    unsafe = re.compile(
        r"\btorch\.(load|save)\(|^\s*(import|from) (pickle|joblib|dill)|allow_pickle=True"
        r"|yaml\.(full_|unsafe_)?load\(",
        re.MULTILINE,
    )
    found = {path for path in PACKAGE.rglob("*.py") if unsafe.search(path.read_text())}
    readers = {PACKAGE / "data" / "import_tensors.py", PACKAGE / "models" / "import_weights.py"}
    cifar = PACKAGE / "data" / "import_cifar.py"
    assert found == {*readers, cifar}
    # `regatta data import` and `import-weights` read foreign files with torch's reader of tensors
    # alone, or with a reader that admits a list of names (tests/data/test_import_cifar.py).
    assert not re.search(r"\bpickle\.loads?\b", cifar.read_text())
    assert "def find_class" in cifar.read_text()
    for path in readers:
        text = path.read_text()
        assert re.findall(r"\bpickle\.\w+", text) == ["pickle.UnpicklingError"]
        (call,) = re.findall(r"\btorch\.(?:load|save)\([^)]*\)", text)
        assert call.startswith("torch.load(")
        assert "weights_only=True" in call
    for path in (*readers, cifar):
        assert "    confine_this_process(" in path.read_text()
