"""What an entry reads of a window: its signals, or the hand-made features that the data brings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from regatta.config.schema import Study
from regatta.core.errors import ConfigError
from regatta.data.manifest import Sample
from regatta.data.windows import WindowStore
from regatta.evaluation.window_protocols import resolve_window_protocol
from regatta.models.spec import ModelSpec, make_spec


def read_inputs(
    store: WindowStore, spec: ModelSpec, samples: Sequence[Sample], *, where: object = None
) -> torch.Tensor:
    """float32 [N, C, L], or features [N, F] for models that read those.

    Raises:
        ConfigError: the data brings no features, or another number of them.
    """
    if spec.reads == "signals":
        return store.select(samples)
    return _features(store, spec, where)[store.rows(samples)]


def check_inputs(study: Study, store: WindowStore) -> None:
    """Refuse, before any training, entries that cannot read this data or be judged on it.

    Raises:
        ConfigError: as `read_inputs`, or a protocol that changes signals meets an entry that reads
            features.
    """
    for entry in study.trained_entries:
        where = f"entries.{entry.name}"
        spec = make_spec(entry.model, entry.size, entry.options, window=store.window, where=where)
        if spec.reads == "signals":
            continue
        _features(store, spec, where)
        if resolve_window_protocol(study.protocol).show is not None:
            raise ConfigError(
                f"the protocol '{study.protocol.name}' changes signals, but this entry reads "
                "hand-made features",
                where=where,
                hint="judge it under the protocol plain, in a study of its own",
            )


def _features(store: WindowStore, spec: ModelSpec, where: object) -> torch.Tensor:
    features = store.features
    if features is None:
        raise ConfigError(
            f"{spec.name} reads hand-made features, and this data set brings none",
            where=where,
            hint="take features-linear, which computes its own from the signals",
        )
    if features.shape[1:] != spec.shape:
        raise ConfigError(
            f"the data set brings {features.shape[1]} features per window, this entry takes "
            f"{spec.shape[0]}",
            where=f"{where}.options.features",
            hint=f"set it to {features.shape[1]}",
        )
    return features
