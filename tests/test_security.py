"""The security list, held against real studies and the source text; SECURITY.md says the rest."""

from __future__ import annotations

import ast
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

import regatta
from regatta.report.formats import VARIABLE

PACKAGE = Path(regatta.__file__).parent
HOST = "canary-host-4711"
SECRETS = {
    "HF_TOKEN": "hf_CanaryOfTheHub",
    "WANDB_API_KEY": "c0ffee00" * 5,
    "OPENAI_API_KEY": "sk-CanaryOfTheWriter",
    "AWS_SECRET_ACCESS_KEY": "CanaryOfTheCloud",
    "HTTPS_PROXY": "http://somebody:CanaryOfTheProxy@127.0.0.1:9",
    "DATABASE_URL": "postgres://somebody:CanaryOfTheTable@localhost/db",
}
WORDS = [value.split("@")[0].rsplit(":", 1)[-1] for value in SECRETS.values()]
STUDY = """
name: canary
data:
  source: rotors
  root: {root}
  options: {{train_clips: 8, validation_clips: 4, test_clips: 8, frames: 16}}
entries:
  - {{name: conv, model: cnn3d, size: tiny, checkpoint: none}}
  - {{name: again, model: cnn3d, size: tiny, checkpoint: none, options: {{dropout: 0.1}}}}
train: {{epochs: 1, batch_size: 4, flip: false}}
protocol: {{name: plain}}
launch: {{threads_per_run: 1, max_parallel: 2, track: [tensorboard]}}
"""
NAMESPACE = ["unshare", "--net", "--uts", "sh", "-c"]
IN_IT = 'hostname "$0" && hostname && ip link set lo up && exec "$@"'


@dataclass(frozen=True)
class Done:
    """A study that ran where nothing outside can be reached. sockets: all that were ever seen."""

    folder: Path
    output: str
    sockets: set[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("network and host name of its own need root and unshare")
    folder = tmp_path_factory.mktemp("home-of-canary-0815")
    (folder / "canary.yaml").write_text(STUDY.format(root=folder / "clips"))
    sockets: set[str] = set()
    with (
        open(folder / "output.txt", "w") as output,
        subprocess.Popen(
            [*NAMESPACE, IN_IT, HOST, sys.executable, "-m", "regatta", "run", "canary.yaml"],
            cwd=folder,
            env={**os.environ, **SECRETS, "HOME": str(folder), VARIABLE: "svg"},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        while child.poll() is None:
            sockets |= _sockets(child.pid)
            time.sleep(0.05)
    said = (folder / "output.txt").read_text()
    assert child.returncode == 0, said
    yield Done(folder, said, sockets)
    shutil.rmtree(folder)


def _sockets(pid: int) -> set[str]:
    """Internet sockets in the network of a process, as 'table local remote state'."""
    found: set[str] = set()
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return found  # It has not left ours yet.
    except OSError:
        return found
    for table in ("tcp", "tcp6", "udp", "udp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        found |= {f"{table} {' '.join(line.split()[1:4])}" for line in lines}
    return found


def contents(path: Path) -> bytes:
    """All that a file says, unpacked."""
    if path.suffix == ".parquet":
        return path.read_bytes() + str(parquet.read_table(path).to_pydict()).encode()
    return path.read_bytes()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_no_port_is_opened_and_nothing_is_sent(done: Done) -> None:
    assert done.sockets == set()


def test_no_secret_of_the_environment_is_in_any_file_or_line(done: Done) -> None:
    searched = [path for path in files(done.folder) if path.suffix not in {".mp4", ".avi"}]
    assert len(searched) > 60
    for path in searched:
        content = contents(path)
        assert not [word for word in WORDS if word.encode() in content], path
    assert not [word for word in WORDS if word in done.output]


def test_what_is_passed_on_names_no_host_no_person_and_no_folder(done: Done) -> None:
    study = done.folder / "runs" / "canary"
    passed_on = [path for part in ("report", "results") for path in files(study / part)]
    assert study / "report" / "report.html" in passed_on
    assert done.output.startswith(HOST)
    for path in files(study):
        assert HOST.encode() not in contents(path), path
    private = [str(done.folder), done.folder.name, str(PACKAGE)]
    if len(person := pwd.getpwuid(os.getuid()).pw_name) > 4:
        private.append(person)
    for path in passed_on:
        content = contents(path)
        assert not [
            content[max(0, at - 80) : at + 80]
            for word in private
            if (at := content.find(word.encode())) >= 0
        ], path


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    """Every call in the package with what is called, as far as a dotted name tells."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def test_no_shell_and_no_text_is_ever_executed() -> None:
    forbidden = {"eval", "exec", "compile", "os.system", "os.popen", "subprocess.getoutput"}
    for path, call, name in calls():
        assert name not in forbidden, f"{path}:{call.lineno}"
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("shell", "False") == "False", f"{path}:{call.lineno}"
        assert given.get("trust_remote_code", "False") == "False", f"{path}:{call.lineno}"
        if name.startswith("subprocess.") or name.endswith("Popen"):
            # Text as first argument would be one word; a list is what starts programs here.
            assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), (
                f"{path}:{call.lineno}"
            )


def test_modules_are_imported_by_names_of_our_own_alone() -> None:
    """A name from a study, a checkpoint or a data file never reaches the import system: it is
    looked up in the registry, which knows modules from the source text of the package."""
    found = {
        (path.relative_to(PACKAGE).as_posix(), ast.unparse(call.args[0]))
        for path, call, name in calls()
        if name.endswith("import_module") or name == "__import__"
    }
    assert found == {
        ("core/registry.py", "self.listed[name].module"),
        ("training/energy.py", "'pynvml'"),
        ("worker/profile.py", "name"),
    }
