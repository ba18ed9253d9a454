"""The share of the training samples whose labels a run may use."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from regatta.config.expand import RunSpec
from regatta.core.csv_text import csv_text
from regatta.core.files import write_text
from regatta.data.manifest import Manifest
from regatta.data.splits import label_share
from regatta.records.run_folder import RunFolder


def with_label_share(
    manifest: Manifest, run_spec: RunSpec, run: RunFolder, *, seed: int, writes: bool
) -> Manifest:
    """The manifest as this run sees it: of the training split only `train.label_fraction`.

    Which samples are left stands in `label_indices.csv` of the run.

    Args:
        seed: `data.split_seed`, the same for every entry and training seed.
        writes: whether this process speaks for the run.
    """
    fraction = run_spec.train.label_fraction
    if fraction >= 1:
        return manifest
    share = label_share(manifest.split("train"), fraction, seed)
    kept = {sample.sample_id for sample in share}
    if writes:
        rows = ((sample.sample_id, sample.label) for sample in share)
        write_text(run.label_indices, csv_text(["sample_id", "label"], rows))
    samples = [s for s in manifest.samples if s.split != "train" or s.sample_id in kept]
    return replace(manifest, samples=samples)


def training_counts(manifest: Manifest) -> list[int]:
    """Training samples of each class, in the order of the labels."""
    counts = Counter(sample.label for sample in manifest.split("train"))
    return [counts[label] for label in range(len(manifest.classes))]
