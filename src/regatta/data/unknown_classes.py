"""Classes that a study keeps from its models, to see whether they notice what they never learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from regatta.core.errors import ConfigError
from regatta.core.registry import nearest
from regatta.data.manifest import Sample

UNKNOWN_LABEL = -1


def set_unknown_apart(
    samples: Sequence[Sample], classes: Sequence[str], unknown: Sequence[str]
) -> tuple[list[Sample], list[str], list[str]]:
    """(samples, known classes, notes) after the samples were split.

    Unknown samples of the test split get the split `unknown` and the label -1; all others of them
    are left out. Labels count the known classes.

    Raises:
        ConfigError: no such class, fewer than two left, or none of its samples in the test split.
    """
    if not unknown:
        return list(samples), list(classes), []
    where = "data.unknown_classes"
    for name in unknown:
        if name not in classes:
            guess = nearest(name, classes)
            hint = f"did you mean '{guess}'? " if guess else ""
            raise ConfigError(
                f"there is no class '{name}'", where=where, hint=f"{hint}{', '.join(classes)}"
            )
    known = [name for name in classes if name not in unknown]
    if len(known) < 2:
        raise ConfigError(f"{len(known)} known class(es) are left, 2 are needed", where=where)
    kept = [replace(s, label=known.index(s.label_name)) for s in samples if s.label_name in known]
    apart = [
        replace(s, label=UNKNOWN_LABEL, split="unknown")
        for s in samples
        if s.label_name in unknown and s.split == "test"
    ]
    if not apart:
        raise ConfigError(
            "the test split has no sample of these classes", where=where, hint="name others"
        )
    left_out = len(samples) - len(kept) - len(apart)
    note = (
        f"kept from the models as unknown: {', '.join(unknown)}; {len(apart)} of the samples are "
        f"judged beside the test split, {left_out} of training and validation are left out"
    )
    return [*kept, *apart], known, [note]
