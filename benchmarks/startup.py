"""How long `regatta --help` and `regatta status` take as whole processes, beside `python -c pass`
and `import torch`.

    .venv/bin/python benchmarks/startup.py [--repeats 7]

First checks that neither verb loads torch; then times all four in turn and prints medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

TARGET_SECONDS = 0.5
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "regatta --help": ["-m", "regatta", "--help"],
    "regatta status": ["-m", "regatta", "status"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    for name in ("regatta --help", "regatta status"):
        check_torch_free(name)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            seconds[name].append(timed(arguments))
    for name, values in seconds.items():
        print(
            f"{name:<16} median {statistics.median(values):.3f} s"
            f"  ({min(values):.3f}-{max(values):.3f})"
        )
    slowest = max(statistics.median(seconds[name]) for name in ("regatta --help", "regatta status"))
    verdict = "met" if slowest < TARGET_SECONDS else "MISSED"
    print(f"target under {TARGET_SECONDS} s: {verdict}")


def check_torch_free(name: str) -> None:
    child = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMANDS[name]],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
    if "regatta.cli.main" not in loaded or "torch" in loaded:
        raise SystemExit(
            f"{name}: torch is imported" if "torch" in loaded else f"{name}: did not run"
        )


def timed(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
