"""Who trains, who selects, who judges among windows of signals."""

from __future__ import annotations

from collections.abc import Sequence

from regatta.config.schema import DataSection
from regatta.data.manifest import Dropped, Sample
from regatta.data.splits import carve_validation
from regatta.data.window_listing import WindowRow


def split_windows(
    samples: list[Sample], rows: Sequence[WindowRow], data: DataSection
) -> tuple[list[Sample], list[Dropped], list[str]]:
    """Samples with their splits, windows left out as a gap between splits, and notes."""
    del rows
    return carve_validation(samples, data.validation_fraction, data.split_seed), [], []
