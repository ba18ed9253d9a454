"""Settings of a recipe that only entries with a picture encoder can have, checked before a start.

An entry has a picture encoder when its model takes the option `encoder`.
"""

from __future__ import annotations

from regatta.config.schema import EntrySection, TrainSection
from regatta.core.errors import ConfigError
from regatta.core.registry import MODELS


def check_picture_recipe(entry: EntrySection, train: TrainSection, *, where: object = None) -> None:
    """ConfigError for augmentation that this entry cannot have.

    Args:
        train: the entry's own recipe.
    """
    place = f"{where}: entries.{entry.name}"
    if train.augment == "reference":
        _check_reference(entry, train, place)
    if train.augment_views > 1:
        _check_views(entry, train, place)


def _check_reference(entry: EntrySection, train: TrainSection, place: str) -> None:
    if not has_encoder(entry):
        raise ConfigError(
            f"augment: reference changes drawn pictures, and {entry.model} draws none",
            where=place,
            hint="give this entry `train: {augment: standard}`, or none",
        )
    if train.freeze_encoder:
        raise ConfigError(
            "augment: reference changes each picture anew, and a frozen encoder sees each once",
            where=place,
            hint="set freeze_encoder: false, or use augment: standard with augment_views",
        )


def _check_views(entry: EntrySection, train: TrainSection, place: str) -> None:
    if not (has_encoder(entry) and train.freeze_encoder and train.feature_cache):
        raise ConfigError(
            "augment_views are variants that a frozen encoder sees once; this entry is augmented "
            "anew in every epoch",
            where=place,
            hint="set augment_views: 1, or freeze_encoder and feature_cache of an entry that has "
            "an encoder",
        )
    if train.augment != "standard":
        raise ConfigError(
            f"{train.augment_views} views of each window need an augmentation that tells them "
            "apart",
            where=place,
            hint="set augment: standard, or augment_views: 1",
        )


def has_encoder(entry: EntrySection) -> bool:
    """Whether the entry draws pictures for an encoder; no model of videos does. One whose options
    cannot be read may."""
    listed = MODELS.listed.get(entry.model)
    if listed is None:
        return True
    return listed.kind != "video" and (listed.options is None or "encoder" in listed.options)
