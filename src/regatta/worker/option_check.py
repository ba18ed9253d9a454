"""What only the torch side knows of a study's entries, asked by `regatta check` in a child process.

  python -m regatta.worker.option_check < study.yaml

Exit code 0, or that of the error, which is printed as JSON: what, where, hint.
"""

from __future__ import annotations

import json
import sys

from regatta.config.load import read_yaml, study_from_mapping
from regatta.core.errors import RegattaError
from regatta.worker.study_checks import check_entries


def main() -> int:
    """Check the options, checkpoints and recipe of every entry of the study on stdin."""
    try:
        check_entries(study_from_mapping(read_yaml(sys.stdin.read(), where="stdin")))
    except RegattaError as error:
        print(json.dumps({"what": error.what, "where": error.where, "hint": error.hint}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
