"""The `fusion:` section: experts, fusions and what they are set against, written out as entries.

A study says which families and fusion types it crosses; the entries, their recipes and what waits
for what follow from that. The resolved study holds them all, so everything else reads entries only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from regatta.config.fusion_names import FUSION_TYPES, canonical_fusion, entry_form
from regatta.config.fusion_recipes import (
    FAMILIES,
    Family,
    Recipe,
    expert_recipe,
    family_of,
    fusion_recipe,
)
from regatta.config.partition import PartitionSection, class_blocks
from regatta.config.section import Section
from regatta.core.errors import ConfigError, RegattaError

SIX = FUSION_TYPES[:6]
"""The types of the reference study; the two stable products are extra."""
MIXED = "mixed"
Baseline = Literal["full", "equal-cost", "wide", "stacking"]
Entry = dict[str, Any]


class FusionSection(Section):
    """Which experts are fused how, and with what the result is compared."""

    families: list[str] = [family.name for family in FAMILIES]
    """CNN families; a system has the experts of one."""
    types: list[str] = list(SIX)
    """Fusion types, each with every family."""
    cells: list[str] | None = Field(default=None, min_length=1)
    """Single systems `family+type` in the place of families x types."""
    mixed: bool = False
    """One system per type whose experts are of different families, in place of one per family."""
    size: Literal["tiny", "small", "base"] = "base"
    """Of the experts and of the single networks that they are compared with."""
    classes: int | None = Field(default=None, ge=2)
    """Classes of the data, which a class-split partition needs to know beforehand."""
    options: dict[str, Any] = {}
    """Of the experts' models: image_size, width ..."""
    fusion_options: dict[str, Any] = {}
    """Of the fusions: hidden, addition, depth, head."""
    recipe: Literal["default", "reference", "reference-ablation"] = "default"
    """reference = cutmix in every step, no warm-up of experts, one common clipping; with ablation
    constant rates too."""
    augment: Literal["per-type", "same-for-all"] = "per-type"
    """per-type = each fusion type changes its images as in the reference study, which confounds the
    two."""
    adapt_lr: bool = True
    """Scale the rates of a fusion by its feature dimension and type."""
    experts_lr_scale: float = Field(default=1.0, gt=0)
    frozen: bool = False
    """Experts stay as they are: their features are computed once and the fusions train on them."""
    use_only: bool = False
    """Take experts that are trained; one that is not is an error instead of a run."""
    alphas: list[Annotated[float, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Several weights of the experts' own losses, each a system of its own."""
    expert_train: dict[str, Any] = {}
    """Keys of `train:` for experts and single networks."""
    fusion_train: dict[str, Any] = {}
    """Keys of `train:` for fusions."""
    baselines: list[Baseline] = ["full", "equal-cost", "wide", "stacking"]
    """Single networks on all data: with an expert's epochs, with the whole system's training cost,
    and twice as wide, as costly to use as four experts; stacking = logistic regression on the
    experts' joined features."""

    @field_validator("families")
    @classmethod
    def _known_families(cls, names: list[str]) -> list[str]:
        return _known(names, lambda name: family_of(name).name)

    @field_validator("types")
    @classmethod
    def _known_types(cls, names: list[str]) -> list[str]:
        return _known(names, canonical_fusion)

    @field_validator("cells")
    @classmethod
    def _known_cells(cls, cells: list[str] | None) -> list[str] | None:
        return None if cells is None else _known(cells, _canonical_cell)

    @model_validator(mode="after")
    def _fits_together(self) -> FusionSection:
        if self.mixed and self.cells:
            raise ValueError("mixed crosses families itself: leave cells out")
        if not self.mixed and not self.systems():
            raise ValueError("nothing is fused: name families and types, or cells")
        return self

    def systems(self) -> list[tuple[str, str]]:
        """(family or `mixed`, fusion type) of every fused system, in report order."""
        if self.cells:
            pairs = [cell.partition("+") for cell in self.cells]
            return [(family, fusion_type) for family, _, fusion_type in pairs]
        rows = [MIXED] if self.mixed else self.families
        return [(family, fusion_type) for family in rows for fusion_type in self.types]


def _known(names: list[str], canonical: Any) -> list[str]:
    try:
        found = [canonical(name) for name in names]
    except RegattaError as error:
        raise ValueError(f"{error.what}; {error.hint}") from error
    if len(set(found)) < len(found):
        raise ValueError("a name stands here twice")
    return found


def _canonical_cell(cell: str) -> str:
    family, plus, fusion_type = cell.partition("+")
    if not plus:
        raise ConfigError(f"'{cell}' is no family+type", hint="for example resnet+multiplicative")
    return f"{family_of(family).name}+{canonical_fusion(fusion_type)}"


def expand_fusion(content: Mapping[str, Any], *, where: object = None) -> dict[str, Any]:
    """A study's mapping with the entries that its `fusion:` section stands for.

    Entries that are there already as mappings stay; a bare name picks the one of that name, with
    all that it needs. A mapping without the section comes back as it is.

    Raises:
        ConfigError: the section, or `partition:`, is wrong.
    """
    if content.get("fusion") is None:
        return dict(content)
    writer = _Writer(content, where)
    made = {entry["name"]: entry for entry in writer.entries()}
    asked = content.get("entries")
    if not asked:
        return {**content, "partition": writer.partition_given, "entries": list(made.values())}
    entries = [made.get(item, item) if isinstance(item, str) else item for item in asked]
    known = made | {entry["name"]: entry for entry in entries if isinstance(entry, dict)}
    return {
        **content,
        "partition": writer.partition_given,
        "entries": with_needed(entries, known),
    }


def own_options(fusion_type: str, options: Mapping[str, Any]) -> Recipe:
    """Those of `fusion.fusion_options` that this type has: `addition` and `depth` are of some."""
    kept = {
        "addition": fusion_type in ("multiplicativeAddition", "simpleAddition"),
        "depth": fusion_type == "TransformerBase",
    }
    return {key: value for key, value in options.items() if kept.get(key, True)}


def with_needed(entries: list[Any], known: Mapping[str, Entry]) -> list[Any]:
    """`entries` with those before them that they need and that are not among them."""
    found: dict[str, Any] = {}

    def add(entry: Any) -> None:
        name = entry.get("name") if isinstance(entry, dict) else str(entry)
        for needed in entry.get("needs", []) if isinstance(entry, dict) else []:
            if needed in known and needed not in found:
                add(known[needed])
        found.setdefault(str(name), entry)

    for entry in entries:
        add(entry)
    return list(found.values())


class _Writer:
    """Writes the entries of one study."""

    def __init__(self, content: Mapping[str, Any], where: object) -> None:
        given = content.get("partition") or {}
        self.partition_given = {"kind": given} if isinstance(given, str) else given
        try:
            self.section = FusionSection.model_validate(content["fusion"])
            self.partition = PartitionSection.model_validate(self.partition_given)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc'])}: "
                f"{problem['msg'].removeprefix('Value error, ')}"
                for problem in error.errors()
            )
            raise ConfigError(
                problems,
                where=f"{where}: fusion, partition",
                hint="docs/studies/fusion.md has every key",
            ) from error
        self._common: Recipe = dict(content.get("train") or {})
        loss = content.get("loss") or {}
        self._loss = loss if isinstance(loss, dict) else {}
        if self.partition.experts < 2:
            raise ConfigError(
                "a fusion joins at least 2 experts", where=f"{where}: partition.experts"
            )
        if self.section.mixed:
            self._check_mixed(where)
        if self.partition.kind == "noniid" and self.section.classes is None:
            raise ConfigError(
                "a class-split partition needs the number of classes beforehand",
                where=f"{where}: fusion.classes",
                hint="for example fusion.classes: 100",
            )

    def _check_mixed(self, where: object) -> None:
        families, experts = len(self.section.families), self.partition.experts
        if families != experts:
            raise ConfigError(
                f"a mixed system has one expert per family: {families} families, {experts} experts",
                where=f"{where}: partition.experts",
                hint=f"set partition.experts: {families}",
            )

    def entries(self) -> list[Entry]:
        """Experts, then fusions, then baselines; each once."""
        systems = self.section.systems()
        made = [entry for family, _ in systems for entry in self._experts(family)]
        made += [entry for system in systems for entry in self._fusions(*system)]
        if "stacking" in self.section.baselines:
            made += [self._stacking(row) for row in dict.fromkeys(row for row, _ in systems)]
        rows = {family.name: family for row, _ in systems for family in self._families(row)}
        made += [entry for family in rows.values() for entry in self._baselines(family)]
        return list({entry["name"]: entry for entry in made}.values())

    def _families(self, row: str) -> list[Family]:
        """The families of a row of the matrix: one, or all of a mixed system."""
        names = self.section.families if row == MIXED else [row]
        return [family_of(name) for name in names]

    def _expert_names(self, row: str) -> list[str]:
        families, count = self._families(row), self.partition.experts
        return [f"{families[k % len(families)].name}-expert-{k}" for k in range(count)]

    def _experts(self, row: str) -> Iterator[Entry]:
        families = self._families(row)
        for k, name in enumerate(self._expert_names(row)):
            family = families[k % len(families)]
            yield {
                **self._network(family, name),
                "part": f"expert-{k}",
                "role": "expert",
                "train": self._train_of_network(family),
            }

    def _network(self, family: Family, name: str) -> Entry:
        section = self.section
        return {
            "name": name,
            "model": family.model,
            "size": section.size,
            "options": dict(section.options),
        }

    def _train_of_network(self, family: Family) -> Recipe:
        table = expert_recipe(family, reference=self.section.recipe != "default")
        return {**self._unless_common(table), **self.section.expert_train}

    def _unless_common(self, table: Recipe) -> Recipe:
        """The table's keys that the study's own `train:` says nothing of."""
        return {key: value for key, value in table.items() if key not in self._common}

    def _stacking(self, row: str) -> Entry:
        return {
            "name": f"{row}-stacking",
            "model": "expert-stacking",
            "size": self.section.size,
            "part": "fusion",
            "role": "baseline",
            "options": self._options_of_experts(row),
            "needs": self._expert_names(row),
        }

    def _fusions(self, row: str, fusion_type: str) -> Iterator[Entry]:
        section, alphas = self.section, self.section.alphas or [None]
        for alpha in alphas:
            suffix = f"-a{alpha:g}" if alpha is not None and len(alphas) > 1 else ""
            yield {
                "name": f"{row}-{entry_form(fusion_type)}{suffix}",
                "model": "fusion",
                "size": section.size,
                "part": "fusion",
                "options": self._fusion_options(row, fusion_type),
                "train": self._fusion_train(fusion_type, alpha),
                "needs": self._expert_names(row),
            }

    def _fusion_options(self, row: str, fusion_type: str) -> Recipe:
        section, options = self.section, {"type": fusion_type, **self._options_of_experts(row)}
        if self.partition.kind == "noniid":
            options["own_heads"] = True
        return {**options, **own_options(fusion_type, section.fusion_options)}

    def _options_of_experts(self, row: str) -> Recipe:
        section, models = self.section, [family.model for family in self._families(row)]
        options: Recipe = {"experts": self.partition.experts}
        options |= {"families": models} if row == MIXED else {"family": models[0]}
        rest = {key: value for key, value in section.options.items() if key != "image_size"}
        if rest:
            options["expert_options"] = rest
        if "image_size" in section.options:
            options["image_size"] = section.options["image_size"]
        if self.partition.kind == "noniid":
            blocks = class_blocks(section.classes or 0, self.partition.experts)
            options["expert_classes"] = [len(block) for block in blocks]
        return options

    def _fusion_train(self, fusion_type: str, alpha: float | None) -> Recipe:
        section = self.section
        table = fusion_recipe(
            fusion_type,
            recipe=section.recipe,
            same_augment=section.augment == "same-for-all",
            experts_lr_scale=section.experts_lr_scale,
        )
        if section.frozen:
            for key in ("lr_factors", "clip_norms"):
                table[key] = {}
            table |= {"freeze_encoder": True, "cutmix": 0.0, "augment": "none"}
        table["adapt_lr"] = section.adapt_lr and not section.frozen
        recipe = {**self._unless_common(table), **section.fusion_train}
        loss = {**self._loss, **({} if alpha is None else {"alpha": alpha})}
        return {**recipe, "loss": {**recipe.get("loss", {}), **loss}} if loss else recipe

    def _baselines(self, family: Family) -> Iterator[Entry]:
        train = self._train_of_network(family)
        common = {"role": "baseline", "train": train}
        names = {"full": "full", "equal-cost": "full-equal-cost", "wide": "wide"}
        for baseline in (name for name in self.section.baselines if name in names):
            entry = {**self._network(family, f"{family.name}-{names[baseline]}"), **common}
            if baseline == "equal-cost":
                entry["train"] = {**train, "epochs": self._equal_cost_epochs(train)}
            elif baseline == "wide":
                entry["options"] = {
                    **entry["options"],
                    "width": 2 * entry["options"].get("width", 1),
                }
            yield entry

    def _equal_cost_epochs(self, train: Recipe) -> int:
        """Epochs on all data that take as many forward and backward passes of one network as K
        experts and one fusion of them: (K n_e E_e + K n_f E_f) / n."""
        part, fusion = self.partition, self._fusion_train(SIX[0], None)
        expert_epochs, fusion_epochs = (
            float(recipe["epochs"] if "epochs" in recipe else self._common["epochs"])
            for recipe in (train, fusion)
        )
        passes = part.expert_share * expert_epochs + part.fusion_share * fusion_epochs
        whole = 1.0 - part.validation
        return max(1, round(part.experts * passes / whole))
