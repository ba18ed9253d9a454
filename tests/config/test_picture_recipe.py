"""Augmentation that an entry cannot have is refused while the study is read."""

from __future__ import annotations

from typing import Any

import pytest

from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.errors import ConfigError


def study(model: str = "har-vit", source: str = "har-synthetic", **train: Any) -> Study:
    entry = {"name": "one", "model": model, "checkpoint": "none", "train": train}
    return study_from_mapping({"name": "s", "data": {"source": source}, "entries": [entry]})


@pytest.mark.parametrize(
    ("train", "what"),
    [
        ({"model": "cnn1d", "augment": "reference"}, "cnn1d draws none"),
        ({"augment": "reference", "freeze_encoder": True}, "frozen encoder"),
        ({"augment_views": 3}, "augmented anew"),
        ({"augment_views": 3, "freeze_encoder": True, "feature_cache": False}, "augmented anew"),
        ({"augment_views": 3, "freeze_encoder": True, "augment": "none"}, "tells them apart"),
        ({"model": "cnn1d", "augment_views": 3, "freeze_encoder": True}, "augmented anew"),
        ({"model": "r3d18", "source": "rotors", "augment_views": 3}, "augmented anew"),
    ],
)
def test_what_cannot_be_augmented_so_is_refused_by_entry(train: dict[str, Any], what: str):
    with pytest.raises(ConfigError, match=what) as caught:
        study(**train)
    assert "entries.one" in str(caught.value.where)


@pytest.mark.parametrize(
    "train",
    [
        {"augment": "reference"},
        {"augment_views": 3, "freeze_encoder": True},
        {"freeze_encoder": True, "augment": "standard"},
    ],
)
def test_what_can_be_augmented_so_is_read(train: dict[str, Any]):
    assert study(**train).entries[0].train == train
