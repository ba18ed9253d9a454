"""Promises of `regatta data import cifar`: equal images, and no code from a pickle ever runs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from regatta.core.errors import DataError
from regatta.data.import_cifar import import_cifar
from regatta.data.sources.cifar10 import cifar10
from regatta.data.sources.cifar100 import cifar100
from tests.data.image_files import FINE, pictures, write_python_cifar100


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "regatta", "data", "import", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_writes_a_release_that_the_source_reads(tmp_path: Path) -> None:
    images = {"train": pictures(8, 1), "test": pictures(4, 2)}
    write_python_cifar100(tmp_path / "cifar-100-python", images)
    done = run("cifar", "--root", tmp_path / "cifar-100-python", "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "regatta data check cifar100" in done.stdout
    listing = cifar100(tmp_path / "out")
    np.testing.assert_array_equal(listing.images, np.concatenate(list(images.values())))
    assert listing.classes == list(FINE)
    assert [row.label_name for row in listing.rows[:4]] == list(FINE)
    coarse = cifar100(tmp_path / "out", labels="coarse")
    assert [row.label_name for row in coarse.rows[:2]] == ["fruit", "animal"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_ten_classes_in_any_protocol(tmp_path: Path, protocol: int) -> None:
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    meta = {"label_names": ["plane", "car"], "num_cases_per_batch": 2, "num_vis": 3072}
    (base / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))
    parts = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for number, name in enumerate(parts):
        data = np.asfortranarray(pictures(2, number).reshape(2, -1))
        held = {"data": data, "labels": [0, 1], "batch_label": name}
        (base / name).write_bytes(pickle.dumps(held, protocol=protocol))
    assert import_cifar(tmp_path, tmp_path / "out").images["data_batch_3.bin"] == 2
    expected = np.concatenate([pictures(2, number) for number in range(6)])
    np.testing.assert_array_equal(cifar10(tmp_path / "out").images, expected)


def python2(value: bytes) -> bytes:
    """A str of Python 2 in a pickle: opcode BINSTRING."""
    return b"T" + len(value).to_bytes(4, "little") + value


def test_array_as_python_2_wrote_it_is_read(tmp_path: Path) -> None:
    base = tmp_path / "release"
    write_python_cifar100(base, {"test": pictures(2, 2)})
    image = pictures(2, 1)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + python2(b"b") + b"tR"
        b"(K\x01(K\x02M\x00\x0ctcnumpy\ndtype\n(" + python2(b"u1") + b"K\x00K\x01tR"
        b"(K\x03" + python2(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + python2(image.tobytes()) + b"tb"
    )
    content = b"\x80\x02}(" + python2(b"data") + array
    for key in (b"fine_labels", b"coarse_labels"):
        content += python2(key) + b"](K\x00K\x01e"
    (base / "train").write_bytes(content + b"u.")
    import_cifar(base, tmp_path / "out")
    np.testing.assert_array_equal(cifar100(tmp_path / "out").images[:2], image)


def hostile(target: Path) -> dict[str, bytes]:
    """Pickles that make a folder when a trusting reader opens them."""
    name = str(target).encode()
    return {
        "global": b"cos\nmkdir\n(V" + name + b"\ntR.",
        "stack-global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c"
        + bytes([len(name)])
        + name
        + b"\x85R.",
        "inst": b"(V" + name + b"\nios\nmkdir\n.",
        "obj": b"(cos\nmkdir\nV" + name + b"\no.",
        "builtins": b"cbuiltins\neval\n(V__import__('os').mkdir('" + name + b"')\ntR.",
        "numpy": b"cnumpy\nload\n(V" + name + b"\ntR.",
    }


@pytest.mark.parametrize("kind", ["global", "stack-global", "inst", "obj", "builtins", "numpy"])
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    write_python_cifar100(tmp_path, {"train": pictures(4), "test": pictures(4)})
    content = hostile(tmp_path / "hit")[kind]
    if kind != "numpy":
        # These are working attacks, so that the refusal below means something.
        pickle.loads(content)
        (tmp_path / "hit").rmdir()
    (tmp_path / "train").write_bytes(content)
    with pytest.raises(DataError, match="refused"):
        import_cifar(tmp_path, tmp_path / "out")
    assert not (tmp_path / "hit").exists()
    assert not (tmp_path / "out").exists()


def test_command_refuses_a_hostile_release_with_exit_code_2(tmp_path: Path) -> None:
    write_python_cifar100(tmp_path, {"train": pictures(4), "test": pictures(4)})
    (tmp_path / "meta").write_bytes(hostile(tmp_path / "hit")["stack-global"])
    done = run("cifar", "--root", tmp_path, "--to", tmp_path / "out")
    assert done.returncode == 2
    assert "os.mkdir, which could run code" in done.stderr
    assert not (tmp_path / "hit").exists()


def test_more_memory_than_a_release_needs_is_not_given(tmp_path: Path) -> None:
    write_python_cifar100(tmp_path, {"train": pictures(4), "test": pictures(4)})
    # "Remember this at place 2^30": the reader would make room for all places before it.
    (tmp_path / "train").write_bytes(b"\x80\x02Nr\x00\x00\x00\x40.")
    done = run("cifar", "--root", tmp_path, "--to", tmp_path / "out")
    assert done.returncode == 2
    assert "refused" in done.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({b"data": np.zeros((4, 3072), dtype=np.float32)}, "not of uint8"),
        ({b"data": np.array([[None]] * 4)}, "not of uint8"),
        ({b"data": np.zeros((4, 100), dtype=np.uint8)}, r"\[4, 100\]"),
        ({b"data": [0] * 4}, "no uint8 array .* but list"),
        ({b"fine_labels": [0, 1, 2]}, "3 'fine_labels' for 4 images"),
        ({b"fine_labels": [0, 1, 2, 4]}, "label 4 of image 3 is outside the list of 4"),
        ({b"coarse_labels": [0, 1, 0, -1]}, "label -1 of image 3"),
        ({b"more": OrderedDict()}, "collections.OrderedDict"),
        ({b"more": {1, 2}}, "could run code"),
    ],
)
def test_content_that_is_no_release_is_refused(
    tmp_path: Path, change: dict[bytes, object], named: str
) -> None:
    write_python_cifar100(tmp_path, {"train": pictures(4), "test": pictures(4)})
    held = pickle.loads((tmp_path / "train").read_bytes())
    (tmp_path / "train").write_bytes(pickle.dumps({**held, **change}, protocol=2))
    with pytest.raises(DataError, match=named):
        import_cifar(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cut_pickle_is_refused(tmp_path: Path) -> None:
    write_python_cifar100(tmp_path, {"train": pictures(4), "test": pictures(4)})
    path = tmp_path / "train"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="no whole pickle"):
        import_cifar(tmp_path, tmp_path / "out")


def test_folder_without_a_release_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta or batches\.meta is missing"):
        import_cifar(tmp_path, tmp_path / "out")
