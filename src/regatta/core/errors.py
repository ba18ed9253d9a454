"""The one error tree. Catch `RegattaError` to catch everything that Regatta raises on purpose.

RegattaError                 exit 1   base: what happened, where, what to do next
├── ConfigError              exit 2   a study file, flag or override is wrong
│   └── UnknownNameError     exit 2   no such model, source, protocol ...; names the nearest
├── DataError                exit 2   the data set on disk is not what the study says
│   ├── DecodeError          exit 2   one file cannot be decoded
│   └── SplitLeakError       exit 2   one group stands in two splits
├── EnvironmentFault         exit 3   this machine cannot do it (device, disk, package, port)
│   ├── DeviceError          exit 3
│   ├── DiskError            exit 3
│   └── MissingExtraError    exit 3   an optional package is not installed
├── RecordError              exit 1   a run folder or prediction file is damaged or foreign
│   ├── ForeignFolderError   exit 2   a folder is no study of ours, or another one
│   └── LeaseHeldError       exit 3   another process is running this study
├── WeightsError             exit 2   a checkpoint does not fit the model; lists the keys
├── RunError                 exit 1   one run failed while training or judging
│   └── NonFiniteError       exit 1   loss or gradient is NaN or infinite
└── StopRequested            exit 130 a person or the scheduler asked to stop (TERM: 143)
"""

from __future__ import annotations

LONGEST_WHAT, LONGEST_WHERE, LONGEST_HINT = 3000, 1000, 1500
"""Characters: words of a hostile file may stand in a message, but not fill a terminal or a log."""


def shown(text: str, most: int) -> str:
    """The text as it can be shown: without control characters, its middle left out if too long."""
    text = _shortened(text, most)
    if all(line.isprintable() for line in text.split("\n")):
        return text
    letters = (
        letter if letter == "\n" or letter.isprintable() else ascii(letter)[1:-1] for letter in text
    )
    return _shortened("".join(letters), most)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[5 - most // 2 :]}"


class RegattaError(Exception):
    """An error with a place and a next step.

    Args:
        what: what happened, one sentence.
        where: the file, key, run or sample it happened at.
        hint: what the user can do next.
    """

    exit_code = 1
    cause = "failed"
    """One word for `status.json`."""

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what = shown(what, LONGEST_WHAT)
        self.where = None if where is None else shown(str(where), LONGEST_WHERE)
        self.hint = None if hint is None else shown(hint, LONGEST_HINT)
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  next:  {self.hint}")
        return "\n".join(lines)


class ConfigError(RegattaError):
    exit_code = 2
    cause = "config"


class UnknownNameError(ConfigError):
    pass


class DataError(RegattaError):
    exit_code = 2
    cause = "data"


class DecodeError(DataError):
    pass


class SplitLeakError(DataError):
    pass


class EnvironmentFault(RegattaError):
    exit_code = 3
    cause = "environment"


class DeviceError(EnvironmentFault):
    pass


class DiskError(EnvironmentFault):
    pass


class MissingExtraError(EnvironmentFault):
    pass


class RecordError(RegattaError):
    cause = "records"


class ForeignFolderError(RecordError):
    exit_code = 2


class LeaseHeldError(RecordError):
    exit_code = 3


class WeightsError(RegattaError):
    exit_code = 2
    cause = "weights"


class RunError(RegattaError):
    pass


class NonFiniteError(RunError):
    cause = "non_finite"


class StopRequested(RegattaError):
    exit_code = 130
    cause = "stopped"
