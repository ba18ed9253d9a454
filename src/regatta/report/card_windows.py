"""What a model card says of a model over windows of signals, and how one window is predicted."""

from __future__ import annotations

from regatta.config.schema import EntrySection
from regatta.core.passed_on import without_folders
from regatta.report.tables import markdown_text

UNUSED_SETTINGS = (
    "flip",
    "crop_scale_min",
    "temporal_probability",
    "temporal_coverage",
    "temporal_stride",
    "temporal_box_probability",
)
"""Settings of clips, which change nothing for windows."""


def limits(temperature: float | None) -> str:
    """What the accuracy holds for.

    Args:
        temperature: fitted on the validation split; None = not known.
    """
    scaled = "" if temperature is None else f" unless they are divided by {temperature:.3g} first"
    return (
        "Meant for telling the classes above apart in windows recorded as those of the data set "
        "were: the same channels in the same order and units, the same rate, the sensor worn at "
        "the same place. The accuracy holds for the split and the conditions above and for nothing "
        "else; a window of none of these classes gets one of them all the same. Scores are not "
        f"calibrated probabilities{scaled}."
    )


def what(
    window: tuple[int, int] | None, entry: EntrySection, origin: str, *, study: str, classes: int
) -> str:
    """One paragraph: model, start, input and output.

    Args:
        window: (channels, points); None = not known.
    """
    options = ", ".join(f"{key} {value}" for key, value in entry.options.items())
    settings = f" ({markdown_text(without_folders(options))})" if options else ""
    size = f" of {window[0]} channels x {window[1]} points" if window else ""
    return (
        f"A classifier of sensor windows: model {markdown_text(entry.model)}{settings}, {origin} "
        f"in the Regatta study {markdown_text(study)}. It takes raw windows{size} in the "
        "units of the data set, standardises or draws them itself with numbers of the training "
        f"windows that are saved in it, and gives one score for each of {classes} classes."
    )


def loading(folder: str, window: tuple[int, int]) -> str:
    """A program that loads the exported folder and predicts one window."""
    return (
        "With Regatta, which also checks every key:\n\n"
        "```python\n"
        "from pathlib import Path\n\n"
        "import torch\n\n"
        "from regatta.models.weights import load_model\n\n"
        f'model, spec, classes = load_model(Path("{folder}"))\n'
        f"# float32 [B, {window[0]}, {window[1]}] in the units of the training data; zeros stand "
        "for a real window\n"
        "windows = torch.zeros(1, *spec.input_shape)\n"
        "with torch.no_grad():\n"
        "    scores = model(windows)\n"
        "print(classes[int(scores.argmax())])\n"
        "```"
    )
