"""Promises of the registry: names without imports, nearest name on a miss, third-party entry
points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from regatta.core.errors import UnknownNameError
from regatta.core.registry import ALL, Registry

PLUGIN = '''
from plug_test_pkg.registry import THINGS
raise_on_import = 1 / {divisor}

@THINGS.register("{name}")
def thing(*, wheels: int = 4, colour=None):
    """Rolls.

    Quietly.
    """
    return "{name}"
'''


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "plug_test_pkg"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts" / "__init__.py").write_text("")
    (package / "registry.py").write_text(
        "from regatta.core.registry import Registry\n"
        "THINGS = Registry('thing', 'THINGS', ('plug_test_pkg.parts',))\n"
    )
    (package / "parts" / "good.py").write_text(PLUGIN.format(divisor=1, name="good-thing"))
    (package / "parts" / "broken.py").write_text(PLUGIN.format(divisor=0, name="broken-thing"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("plug_test_pkg.registry", fromlist=["THINGS"]).THINGS
    for name in [name for name in sys.modules if name.startswith("plug_test_pkg")]:
        del sys.modules[name]


def test_names_are_known_without_importing_their_files(things: Registry):
    assert things.names() == ["broken-thing", "good-thing"]


def test_summary_and_options_are_read_from_the_text(things: Registry):
    listed = things.listed["broken-thing"]
    assert (listed.summary, listed.options) == ("Rolls.", {"wheels": "4", "colour": "None"})


def test_unknown_option_names_the_nearest_and_reserved_ones_are_none(things: Registry):
    things.check_options("good-thing", ["wheels"], reserved=frozenset())
    with pytest.raises(UnknownNameError, match="no option of the thing 'good-thing'") as caught:
        things.check_options("good-thing", ["weels"], reserved=frozenset({"colour"}))
    assert "did you mean 'wheels'? known: wheels" in str(caught.value)


def test_asking_for_one_imports_only_its_file(things: Registry):
    assert things.get("good-thing")() == "good-thing"


def test_unknown_name_names_the_nearest(things: Registry):
    with pytest.raises(UnknownNameError) as caught:
        things.get("god-thing", where="study.yaml")
    assert "did you mean 'good-thing'?" in str(caught.value)
    assert "study.yaml" in str(caught.value)


def test_the_same_name_from_two_places_is_refused():
    registry: Registry = Registry("thing", "THINGS", ())
    registry.register("x")(type("First", (), {"__module__": "first"}))
    with pytest.raises(Exception, match="two things are registered as 'x'"):
        registry.register("x")(type("Second", (), {"__module__": "second"}))


def test_every_listed_name_can_be_loaded():
    for registry in ALL.values():
        for name in registry.names():
            assert callable(registry.get(name))


def test_listing_names_loads_no_torch():
    code = (
        "import sys; from regatta.core.registry import ALL\n"
        "assert 'videomae' in ALL['models'].names()\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
