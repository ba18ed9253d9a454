"""Two ranks on one machine with one package counter; rank 0 writes what the run recorded.

torchrun --nproc_per_node=2 -m tests.training.energy_ranks FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from regatta.training.distributed import process_group
from regatta.training.energy import open_meter
from regatta.training.loop import train_run
from tests.training.two_ranks import rank_run


def main(root: Path) -> None:
    torch.set_num_threads(1)
    with process_group("ddp", torch.device("cpu"), timeout_seconds=60) as ranks:
        meter = open_meter(torch.device("cpu"), powercap=root / "power")
        # Nobody may read the counter for the first time after it was moved on.
        ranks.gather(None)
        (root / "power" / "intel-rapl:0" / "energy_uj").write_text("8000000")
        ranks.gather(None)
        train_run(**rank_run(root / "run", ranks), meter=meter)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # As the worker does: threads of gloo that outlive the group can abort the interpreter's end.
    sys.stdout.flush()
    os._exit(0)
