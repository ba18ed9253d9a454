"""A worker that does nothing but say that it is done; run as a script by the benchmarks.

Usage: python noop_worker.py train --study FOLDER --run ID [...]
Standard library only, as little of it as there is: its own cost is taken off on every side.
"""

import os
import sys


def main(arguments: list[str]) -> None:
    study = arguments[arguments.index("--study") + 1]
    run = arguments[arguments.index("--run") + 1]
    path = os.path.join(study, "runs", run, "training_results.json")
    with open(f"{path}.partial", "w") as handle:
        handle.write(f'{{"run": "{run}"}}\n')
    os.replace(f"{path}.partial", path)


if __name__ == "__main__":
    main(sys.argv[1:])
