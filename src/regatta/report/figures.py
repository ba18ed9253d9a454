"""All figures of a study by name; what cannot be drawn is a sentence, never an empty picture."""

from __future__ import annotations

from regatta.report.agreement_figures import agreement_figures
from regatta.report.class_figures import class_figures
from regatta.report.class_map import class_map_figures
from regatta.report.comparison_figures import comparison_figures
from regatta.report.entry_figures import entry_figures
from regatta.report.factor_figures import factor_figures
from regatta.report.fusion_figures import fusion_figures
from regatta.report.material import Material
from regatta.report.motion_figures import motion_figures
from regatta.report.pareto_part import cost_figure
from regatta.report.profile_part import profile_figures
from regatta.report.protocol_figures import protocol_figures
from regatta.report.scene_figures import scene_figures
from regatta.report.stability_figures import stability_figures
from regatta.report.style import Drawn, figure_style
from regatta.report.window_figures import window_figures


def draw_figures(material: Material) -> dict[str, Drawn]:
    """Every figure in the order of the page; names are paths below report/figures."""
    with figure_style():
        found = [
            *protocol_figures(material),
            *comparison_figures(material),
            *fusion_figures(material),
            *scene_figures(material),
            cost_figure(material),
            *agreement_figures(material),
            *factor_figures(material),
            *stability_figures(material),
            *window_figures(material),
            *class_figures(material),
            *class_map_figures(material),
            *motion_figures(material),
            *profile_figures(material),
        ]
        for entry in material.drawn_entries:
            found += entry_figures(material, entry)
    return {figure.name: figure for figure in found}
