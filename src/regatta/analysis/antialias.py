"""Point sampling against a box filter at the same frames and span: aliasing or missing evidence?

Per stride, with r = accuracy at the reference (smallest stride, point sampled), p = point and
b = box at this stride, all of one entry on the same samples:

- difference = b - p, what filtering gives back; loss = r - p, what sampling took.
- "above 0" and "below 0" mean the interval and the corrected permutation test together, as for
  pairs of entries; "less than the margin" is a one-sided test at alpha (interval at 1 - 2 alpha).

The first reading that holds is given:

1. harmed by filtering: the difference is below 0.
2. nothing to recover: the loss is less than the margin (at the reference it is 0 by definition).
   A filter that still helps here removes noise: nothing was lost that it could give back.
3. recovered by filtering, aliasing: the difference is above 0.
4. not recovered, missing evidence: the interval of the loss is above 0, and the difference is less
   than the margin; or the oracle's ceilings of point and box are equal and below the reference's,
   so that no reader could gain by filtering.
5. the data cannot tell.

Where an oracle is known and reads the point-sampled frames as well as the reference, sampling took
no information from an ideal reader. A gain there is still a gain, but the model's own loss (it was
trained at other times or rates) and not the frames'; the record and the sentences say so.

The argument is that of sampling theory (Shannon 1949): a filter before sampling removes what would
fold to wrong frequencies, but cannot bring back what was never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap, Interval
from regatta.analysis.within import Answered, difference_intervals

RECOVERED = "recovered by filtering: aliasing"
NOT_RECOVERED = "not recovered: missing evidence"
NOTHING = "nothing to recover"
HARMED = "harmed by filtering"
UNDECIDED = "the data cannot tell"

SAME_CEILING = 1e-9
FAR = 1e9
"""Stands for an unbounded share in replicates without loss; no reported end can be this large."""


@dataclass(frozen=True)
class Ceilings:
    """What an ideal reader of exactly the planned frames reaches; None where no oracle is known."""

    reference: float | None
    point: float | None
    box: float | None

    @property
    def filtering_cannot_help(self) -> bool:
        """Point and box have the same ceiling, below that of the reference."""
        if self.reference is None or self.point is None or self.box is None:
            return False
        same = abs(self.box - self.point) <= SAME_CEILING
        return same and self.point < self.reference - SAME_CEILING

    @property
    def point_loses_nothing(self) -> bool:
        """An ideal reader of the point-sampled frames is as good as at the reference."""
        if self.reference is None or self.point is None:
            return False
        return self.point >= self.reference - SAME_CEILING

    @property
    def must_recover(self) -> float | None:
        """What theory says that filtering can give back."""
        return None if self.point is None or self.box is None else self.box - self.point


@dataclass(frozen=True)
class Loss:
    """Reference minus point; `below_margin` says that it is shown to be less than the margin."""

    interval: Interval
    below_margin: bool

    @property
    def is_clear(self) -> bool:
        return self.interval.low is not None and self.interval.low > 0


def sampling_loss(
    bootstrap: Bootstrap, entry: int, reference: int, point: int, *, margin: float
) -> Loss:
    """What the stride of `point` costs against the reference condition."""
    if point == reference:
        return Loss(Interval(0.0, 0.0, 0.0, "by design", "this is the reference"), True)
    wide, narrow = difference_intervals(bootstrap, entry, reference, point)
    return Loss(wide, narrow.high is not None and narrow.high < margin)


def antialias_reading(
    difference: Answered, loss: Loss, ceilings: Ceilings, *, margin: float
) -> str:
    """The verdict on one stride; see the module's rules."""
    if difference.is_below:
        return HARMED
    if loss.below_margin:
        return NOTHING
    if difference.is_above:
        return RECOVERED
    if loss.is_clear and (difference.less_than(margin) or ceilings.filtering_cannot_help):
        return NOT_RECOVERED
    return UNDECIDED


def recovered_share(
    bootstrap: Bootstrap, entry: int, *, reference: int, point: int, box: int
) -> Interval:
    """(b - p) / (r - p): 1 = filtering gives all of the loss back, 0 = nothing.

    Ask only where the loss is clear. Then few replicates have no loss; they count as unboundedly
    large shares of their sign, which can only widen the interval.
    """

    def share(accuracy: np.ndarray) -> np.ndarray:
        mine = accuracy[..., entry, :]
        gain = np.asarray(mine[..., box] - mine[..., point])
        loss = np.asarray(mine[..., reference] - mine[..., point])
        return np.divide(gain, loss, out=np.asarray(FAR * np.sign(gain)), where=loss > 0)

    return bootstrap.interval(share, entries=[entry])


def stride_record(
    bootstrap: Bootstrap, difference: Answered, reference: int, ceilings: Ceilings, *, margin: float
) -> dict[str, Any]:
    """Reading, loss and recovered share of one stride; `difference` is box minus point."""
    contrast = difference.contrast
    loss = sampling_loss(bootstrap, contrast.entry, reference, contrast.second, margin=margin)
    share = None
    if loss.is_clear:
        share = recovered_share(
            bootstrap,
            contrast.entry,
            reference=reference,
            point=contrast.second,
            box=contrast.first,
        ).as_dict()
    theory = ceilings.must_recover
    return {
        "reading": antialias_reading(difference, loss, ceilings, margin=margin),
        "loss_points": loss.interval.scaled(100).as_dict(),
        "recovered_share": share,
        "ideal_reader_loses_nothing": ceilings.point_loses_nothing,
        "ceiling_reference": ceilings.reference,
        "ceiling_gain_points": None if theory is None else 100 * theory,
    }
