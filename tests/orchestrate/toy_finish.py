"""Stands for `regatta compare` and `regatta report`: writes the files that they promise."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from regatta.core.files import append_json_line, write_json, write_text
from tests.orchestrate.toy import ORDERS_VARIABLE

if __name__ == "__main__":
    verb, folder = sys.argv[1], Path(sys.argv[2])
    root = Path(os.environ[ORDERS_VARIABLE])
    append_json_line(root / "starts.jsonl", {"kind": verb})
    if (root / f"fail-{verb}").exists():
        sys.exit("DataError: the toy was told to fail")
    if (root / f"hang-{verb}").exists():
        time.sleep(600)
    if verb == "compare":
        write_json(folder / "results" / "comparison.json", {"verdict": "a tie"})
        print("the verdict is a tie")
    else:
        write_text(folder / "report" / "report.html", "<p>a tie</p>")
