"""What `regatta doctor` says of Python, torch with its GPU driver, decoders and other packages."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from ctypes.util import find_library
from pathlib import Path

from regatta.cli.finding import Finding, installed, try_lines
from regatta.core.errors import EnvironmentFault
from regatta.orchestrate.devices import list_gpus
from regatta.orchestrate.slurm_facts import run_slurm

TORCH_FACTS = """
import json, warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import torch
    devices, trouble = [], ""
    if torch.version.cuda:
        try:
            torch.cuda.init()
            count = range(torch.cuda.device_count())
            devices = [torch.cuda.get_device_name(i) for i in count]
        except (RuntimeError, AssertionError) as error:
            trouble = str(error)
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices}
print(json.dumps({**facts, "trouble": trouble or " ".join(str(t.message) for t in told)}))
"""
VIDEO_MODELS = "from transformers import VideoMAEForVideoClassification"
TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow-skinny",
}
"""What launch.track may name, and the package of each."""
OUR_INSTALL = "pip install -c constraints.txt -e ."
CODEC_FITS = ((0, 11, 1), (0, 13, 999))
"""torchcodec that loads beside torch 2.13 without CUDA; others were tried and do not."""
FFMPEG_MAJORS = range(4, 9)
NVIDIA_VENDOR = "0x10de"
OLDEST_PYTHON = 0x030B0000
"""3.11, as sys.hexversion counts."""


def python() -> Finding:
    """Version and width of the interpreter."""
    found = f"{platform.python_version()}, {'64' if sys.maxsize > 2**32 else '32'} bits"
    if sys.hexversion < OLDEST_PYTHON:
        return Finding(
            "python", "bad", f"{found}: too old", "use Python 3.11 or newer", sys.executable
        )
    if sys.maxsize <= 2**32:
        cure = "use a Python of 64 bits: torch has no other builds"
        return Finding("python", "bad", found, cure, sys.executable)
    return Finding("python", "good", found)


def torch() -> Finding:
    """Whether torch imports, and whether it can use the GPUs that are there."""
    tried = try_lines(TORCH_FACTS)
    if tried.trouble:
        return Finding("torch", "bad", f"does not import: {tried.trouble}", OUR_INSTALL)
    facts = json.loads(tried.output.strip().splitlines()[-1])
    build = f"{facts['version']}, CUDA {facts['cuda'] or 'none'}"
    if facts["devices"]:
        return Finding("torch", "good", f"{build}; {', '.join(facts['devices'])}")
    return _torch_without_gpu(build, facts)


def _torch_without_gpu(build: str, facts: dict) -> Finding:
    """Of a torch that sees no GPU: nothing to worry about, or something between the two."""
    where = shutil.which("nvidia-smi") or ""
    gpus, trouble = list_gpus()
    if facts["cuda"] is None and not gpus:
        return Finding("torch", "good", f"{build}; no GPU seen, runs go to the CPU")
    if facts["cuda"] is None:
        number = facts["version"].partition("+")[0]
        cure = f"pip install torch=={number} --index-url https://download.pytorch.org/whl/cu130"
        found = f"{build}: a CPU build beside {len(gpus)} GPU(s), {gpus[0].name}"
        return Finding("torch", "bad", found, cure, where)
    if gpus:
        words = facts["trouble"] or "it gives no reason"
        cure = "update the NVIDIA driver, or install a torch built for the CUDA that nvidia-smi "
        cure += "shows: pip install torch --index-url https://download.pytorch.org/whl/cu126"
        return Finding("torch", "bad", f"{build} cannot use the GPU: {words[:300]}", cure, where)
    if where and "CUDA_VISIBLE_DEVICES" not in trouble:
        return Finding("torch", "bad", f"{build}, but {trouble}", _DRIVER_CURE, where)
    if not where and has_nvidia_card():
        found = f"{build}, and there is an NVIDIA card, but no driver (nvidia-smi is absent)"
        return Finding("torch", "bad", found, "install the NVIDIA driver, then reboot")
    cure = "" if where else "on a machine with a GPU: install the NVIDIA driver"
    return Finding("torch", "note", f"{build}; {trouble}: runs go to the CPU", cure)


_DRIVER_CURE = (
    "reload or install the NVIDIA driver again (after an update: reboot); in a container start it "
    "with --gpus all"
)


def gpu_tools() -> Finding:
    """nvidia-smi: there, and does it answer."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return Finding("GPU tools", "note", "no nvidia-smi; needed on GPU machines only")
    gpus, trouble = list_gpus()
    if gpus:
        names = ", ".join(f"GPU {gpu.index} {gpu.name}" for gpu in gpus)
        return Finding("GPU tools", "good", names, where=path)
    if "CUDA_VISIBLE_DEVICES" in trouble:
        return Finding("GPU tools", "note", trouble, "unset it to use the GPUs", path)
    return Finding("GPU tools", "bad", trouble, _DRIVER_CURE, path)


def has_nvidia_card(root: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether the bus shows a display device of NVIDIA, driver or not."""
    for device in root.iterdir() if root.is_dir() else []:
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == NVIDIA_VENDOR and kind.startswith("0x03"):
            return True
    return False


def video_models() -> Finding:
    """Whether transformers gives the video models."""
    tried = try_lines(VIDEO_MODELS)
    if not tried.trouble:
        return Finding("transformers", "good", installed("transformers") or "?")
    found = f"video models do not import: {tried.trouble}"
    return Finding("transformers", "bad", found, "see the lines of torch and torchvision")


def torchvision() -> Finding:
    """Harmful where it does not fit torch, else of no use to us."""
    found = installed("torchvision")
    if found is None:
        return Finding("torchvision", "good", "not installed; Regatta does not use it")
    if not try_lines("import torchvision").trouble:
        return Finding("torchvision", "note", f"{found}; Regatta does not use it")
    return Finding(
        "torchvision",
        "bad",
        f"{found} does not fit this torch and breaks the video models",
        "pip uninstall torchvision",
    )


def pyav() -> Finding:
    """The decoder that every study of videos uses unless it says otherwise."""
    tried = try_lines(
        "import av; av.codec.CodecContext.create('mpeg4', 'r'); print(av.__version__)"
    )
    if not tried.trouble:
        return Finding("av", "good", tried.output.strip())
    number = installed("av")
    found = f"{number} does not load: {tried.trouble}" if number else "not installed"
    return Finding("av", "bad", found, "pip install -c constraints.txt --force-reinstall av")


def torchcodec() -> Finding:
    """The other decoder: loads only where it, torch and FFmpeg's libraries fit together."""
    found = installed("torchcodec")
    if found is None:
        return Finding("torchcodec", "note", "not installed; PyAV decodes (the default)")
    tried = try_lines("import torchcodec.decoders")
    torch_number, ffmpeg = installed("torch") or "none", ffmpeg_major()
    libraries = f"FFmpeg {ffmpeg}" if ffmpeg else "no FFmpeg libraries"
    triple = f"{found} with torch {torch_number} and {libraries}"
    if not tried.trouble:
        return Finding("torchcodec", "good", triple)
    cure = codec_cure(found, torch_number, ffmpeg)
    return Finding("torchcodec", "note", f"{triple}: does not load: {tried.trouble}", cure)


def codec_cure(codec: str, torch_number: str, ffmpeg: int | None) -> str:
    """What to install so that the three fit; PyAV always remains."""
    else_pyav = "; or stay with PyAV (data.decoder: pyav)"
    is_known_torch = torch_number.startswith("2.13.") and not re.search(r"\+cu", torch_number)
    numbers = tuple(int(part) for part in re.findall(r"\d+", codec)[:3])
    if is_known_torch and not CODEC_FITS[0] <= numbers <= CODEC_FITS[1]:
        return f"pip install torchcodec==0.13.0 (0.11.1 to 0.13 fit torch 2.13){else_pyav}"
    if ffmpeg is None or ffmpeg not in FFMPEG_MAJORS:
        return f"install FFmpeg 4 to 8 with its shared libraries: apt-get install ffmpeg{else_pyav}"
    return f"pip install --force-reinstall torchcodec==0.13.0 torch==2.13.0{else_pyav}"


def ffmpeg_major() -> int | None:
    """Release of the FFmpeg libraries that the loader finds, told by libavutil; None = none."""
    name = find_library("avutil") or ""
    match = re.search(r"\.so\.(\d+)", name)
    # libavutil 56 came with FFmpeg 4, and each release since has raised both by one.
    if match:
        return int(match[1]) - 52
    path = shutil.which("ffmpeg")
    if path is None:
        return None
    command, told = [path, "-version"], ""
    with suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=20
        ).stdout
    match = re.search(r"ffmpeg version n?(\d+)", told)
    return int(match[1]) if match else None


def trackers() -> Finding:
    """Mirrors of the training records."""
    found = {name: installed(package) for name, package in TRACKERS.items()}
    there = [f"{name} {number}" for name, number in found.items() if number]
    lacking = [name for name, number in found.items() if not number]
    return Finding(
        "trackers",
        "good" if there else "note",
        ", ".join(there) or "none installed; metrics.jsonl holds everything",
        "" if there else f"for launch.track: pip install 'regatta[{','.join(lacking)}]'",
    )


def ray() -> Finding:
    """Needed for launch.on: ray only."""
    found = installed("ray")
    if found is None:
        return Finding("Ray", "note", "not installed; needed for launch.on: ray only")
    tried = try_lines("import ray")
    if not tried.trouble:
        return Finding("Ray", "good", found)
    cure = "pip install -c constraints.txt --force-reinstall 'regatta[ray]'"
    return Finding("Ray", "note", f"{found} does not import: {tried.trouble}", cure)


def slurm() -> Finding:
    """Needed for launch.on: slurm only; there is more to it than its commands."""
    path = shutil.which("sbatch")
    if path is None:
        return Finding("Slurm", "note", "no sbatch; needed for launch.on: slurm only")
    try:
        names = sorted(set(run_slurm("sinfo", "-h", "-o", "%R").split()))
    except EnvironmentFault as error:
        cure = f"{error.hint}; launch.on: local needs none of it"
        return Finding("Slurm", "note", f"installed, but not reachable: {error.what}", cure, path)
    return Finding("Slurm", "good", f"partitions: {', '.join(names) or 'none'}", where=path)
