"""What the methods paragraph says of the parts that accompany the verdict, where they are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SENTENCES = {
    "power": "Minimum detectable effects at 80 % power are (t[1 - alpha/2] + t[0.8]) times the "
    "clustered standard error of the difference (Bloom 1995).",
    "agreement": "Agreement of models is described by disagreement, Yule's (1900) Q and Cohen's "
    "(1960) kappa (Kuncheva and Whitaker 2003).",
    "ensemble": "Ensembles average the logits of their members.",
    "stability": "The order of models over conditions is described by Kendall's W (Kendall and "
    "Babington Smith 1939), without a test, since conditions share their samples.",
    "crossover": "Crossings of two models were located by linear interpolation in every replicate "
    "and are claimed only where the intervals at both ends exclude 0 in opposite directions.",
    "pareto": "Accuracy-cost fronts take costs as known; the chance of being on a front is over "
    "the replicates of accuracy.",
}
CALIBRATION = (
    "Calibration is the expected calibration error over {bins} equal bins (Guo et al. 2017), the "
    "negative log-likelihood and the Brier score (1950)."
)


def companion_methods(sections: Mapping[str, Any]) -> str:
    """A sentence per section of comparison.json that holds something, in the order above.

    Args:
        sections: by their names in comparison.json; None where a study has no such part.
    """
    found = [text for name, text in SENTENCES.items() if sections.get(name)]
    if classification := sections.get("classification"):
        found.append(CALIBRATION.format(bins=classification["ece_bins"]))
    return " ".join(found)
