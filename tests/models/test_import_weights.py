"""Promises of `regatta data import-weights`: equal tensors, no code, little memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regatta.core.errors import WeightsError
from regatta.models.import_weights import import_weights


def state() -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(
        [
            ("body.weight", torch.randn(4, 3)),
            ("body.bias", torch.randn(4).half()),
            ("steps", torch.tensor(7)),
        ]
    )


def saved(path: Path, content: object, **options: bool) -> Path:
    torch.save(content, path, **options)
    return path


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regatta", "data", "import-weights", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nest", [None, "state_dict", "model_state", "model"])
def test_the_tensors_of_old_and_new_files_come_out_equal(
    tmp_path: Path, nest: str | None, zipped: bool
) -> None:
    held = state()
    content = held if nest is None else {nest: held, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    path = saved(tmp_path / "net.pth", content, _use_new_zipfile_serialization=zipped)
    done = import_weights([path], tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == set(held)
    assert all(
        torch.equal(found[key], held[key]) and found[key].dtype == held[key].dtype for key in held
    )
    assert done.left_out == (() if nest is None else ("epoch", "args"))
    assert (done.tensors, done.parameters) == (3, 17)


def test_shards_tied_tensors_and_config_are_kept(tmp_path: Path) -> None:
    tied = torch.randn(5, 2)
    first = saved(tmp_path / "a.bin", {"in": tied, "out": tied, "turned": tied.T})
    second = saved(tmp_path / "b.bin", {"head": torch.ones(2)})
    (tmp_path / "config.json").write_text('{"model_type": "any"}')
    assert import_weights([first, second], tmp_path / "out").config
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == {"in", "out", "turned", "head"}
    assert torch.equal(found["out"], tied)
    assert torch.equal(found["turned"], tied.T)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"model_type": "any"}


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path) -> None:
    saved(tmp_path / "net.pth", {"state_dict": state(), "hook": Bomb(tmp_path / "hit")})
    done = command("net.pth", "--to", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "can run code" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "hit").exists()
    assert not (tmp_path / "out").exists()


def test_a_small_file_that_promises_a_huge_tensor_costs_little(tmp_path: Path) -> None:
    # 4 bytes on the disk, 4 TB when written out.
    huge = torch.zeros(1).as_strided((10**12,), (0,))
    saved(tmp_path / "net.pth", {"w": huge})
    done = command("net.pth", "--to", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 1}, "no tensors by name; its keys: epoch"),
        (torch.ones(2), "holds a Tensor"),
    ],
)
def test_files_without_weights_say_what_they_hold(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        import_weights([saved(tmp_path / "x.pt", content)], tmp_path / "out")


def test_damage_absence_repeats_and_taken_folders_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pth", state())
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(WeightsError, match=r"not a whole file|no tensors"):
            import_weights([path], tmp_path / "out")
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match="no such file"):
        import_weights([tmp_path / "none.pth"], tmp_path / "out")
    with pytest.raises(WeightsError, match=r"'body\.bias' stands in two files"):
        import_weights([path, path], tmp_path / "out")
    import_weights([path], tmp_path / "out")
    with pytest.raises(WeightsError, match=r"holds model\.safetensors already"):
        import_weights([path], tmp_path / "out")


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    saved(tmp_path / "net.pth", {"state_dict": state(), "epoch": 3})
    done = command("net.pth", "--to", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "3 tensors, 17 numbers (float16, float32, int64)" in text
    assert "left out, no weights: epoch" in text
    assert "checkpoint: out" in text
    again = command("net.pth", "--to", "other", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["tensors"] == 3
