"""The training recipe of a study: every key of `train:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from regatta.config.section import Section

Momentum = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0)]


class LossSection(Section):
    """What a system with several classifiers is trained on: CE(global) + alpha R CE(each own)."""

    alpha: float = Field(default=1.0, ge=0)
    """Weight of the experts' own losses beside that of the global head."""
    reduction: Literal["sum", "mean"] = "sum"
    """R: alpha weighs the sum of the experts' losses, or their mean."""

    @model_validator(mode="before")
    @classmethod
    def _other_name_of_alpha(cls, value: Any) -> Any:
        """`lambda_loss` is alpha by another name; two different values of it are an error."""
        if not isinstance(value, dict) or "lambda_loss" not in value:
            return value
        rest = {key: held for key, held in value.items() if key != "lambda_loss"}
        if rest.setdefault("alpha", value["lambda_loss"]) != value["lambda_loss"]:
            raise ValueError("alpha and lambda_loss are one setting, but have two values")
        return rest


class PositionSection(Section):
    """How a model that says a class and a place is trained: class_weight CE(class) + weight MSE."""

    weight: float = Field(default=1.0, ge=0)
    class_weight: float = Field(default=1.0, ge=0)
    units: Literal["standardised", "world"] = "standardised"
    """Errors are divided by the sd of each coordinate over the training targets, or left in world
    units, which are smaller."""


class TrainSection(Section):
    """The recipe, the same for every entry unless an entry overrides a key."""

    epochs: int = Field(default=5, ge=0)
    batch_size: int = Field(default=8, ge=1)
    """Clips per device and step."""
    accumulate: int = Field(default=1, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """adam adds the weight decay to the gradient (L2), adamw decays the weights themselves."""
    lr: float = Field(default=1e-5, gt=0)
    scale_lr: Literal["none", "linear", "sqrt"] = "none"
    """Multiply lr by (effective batch / scale_lr_batch), or by its square root; the effective batch
    is batch_size x accumulate x devices."""
    scale_lr_batch: int = Field(default=32, ge=1)
    """Effective batch that lr was chosen for."""
    lr_factors: dict[str, Factor] = {}
    """Learning rates of components: prefix of parameter names -> factor on lr, the longest prefix
    that fits; it replaces head_lr_factor for them."""
    adapt_lr: bool = False
    """Scale the rates of a fusion by its feature dimension and type; see docs/studies/fusion.md."""
    freeze_encoder: bool = False
    """Train the head alone: the encoder stays in evaluation mode and gets no gradients."""
    head_lr_factor: float = Field(default=10.0, gt=0)
    """The new classifier head learns at lr times this; 1 when nothing is pretrained."""
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    momentum: Momentum = 0.9
    """Of sgd, with Nesterov's look-ahead."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of all optimizer steps with linear warm-up; cosine to min_lr_fraction follows."""
    warmup_epochs: float | None = Field(default=None, ge=0)
    """Warm-up in epochs, instead of warmup_fraction."""
    min_lr_fraction: float = Field(default=0.0, ge=0, le=1)
    min_lr: float | None = Field(default=None, ge=0)
    """Learning rate at the end of the cosine, instead of min_lr_fraction; at most lr."""
    schedule: Literal["cosine", "constant", "restarts"] = "cosine"
    """After the warm-up. restarts = the parameters of experts follow a cosine that starts anew
    after 1/4 and 3/4 of the steps, all others one cosine."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    clip_norms: dict[str, Factor] = {}
    """Limits of components, each clipped alone: prefix of parameter names -> norm; clip_norm is for
    the rest."""
    loss: LossSection = LossSection()
    positions: PositionSection = PositionSection()
    gradient_conflict: Literal["none", "pcgrad"] = "none"
    """pcgrad = where the gradients of the global loss and of the experts' own losses oppose each
    other, each loses its part along the other."""
    gradient_conflict_per: Literal["vector", "tensor"] = "vector"
    """Whether that is asked once of all experts' parameters or of each tensor."""
    freeze_experts_epochs: int = Field(default=0, ge=0)
    """Epochs at the start in which the experts of a fusion do not learn."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    """balanced = a class weighs N / (K x its training samples) in the training loss."""
    label_fraction: float = Field(default=1.0, gt=0, le=1)
    """Train on this class-stratified share of the training samples, at least one per class."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of the Beta distribution that mixes pairs of samples and their labels; 0 = off."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of the Beta distribution of the part that is cut out of another sample; 0 = off. With
    mixup also on, each step does one of the two."""
    mix_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the optimizer steps that mix, where mixup or cutmix is on."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running mean of the weights that is validated, kept and judged; 0.999 is usual.
    None = the weights themselves."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    augment: Literal["none", "standard", "reference"] = "standard"
    """Videos: standard = temporal jitter, random resized crop and flip; none = one fixed uniform
    clip. Signals: standard = noise and gain on the raw signal. reference = flip, brightness,
    contrast and rotation of drawn pictures (a flip reverses time, a rotation has no physical
    meaning). Images: standard = shift, mirror, and what augment_options name."""
    augment_options: dict[str, Any] = {}
    """Settings of the augmentation of signals or images; see docs/training.md."""
    augment_views: int = Field(default=1, ge=1)
    """With a frozen encoder, whose features are cached: how many augmented variants of each sample
    to cache; 1 = the sample as it is."""
    feature_cache: bool = True
    """With freeze_encoder: encode each sample once, keep its features on disk and train on them."""
    fresh_samples: bool = False
    """Of scenes that are drawn from a seed: every epoch but the first trains on new ones, as many;
    validation and test stay as they are."""
    flip: bool = True
    """Mirror at random; switch off where left and right, or the sense of rotation, carry the
    class."""
    crop_scale_min: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of the picture area that a random resized crop keeps."""
    temporal_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that a training clip is drawn from the grid below instead of the whole clip: the model
    then meets the rates and lengths that it is judged at."""
    temporal_coverage: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        default=[10, 25, 50, 75, 100], min_length=1
    )
    """Coverages in percent that such a clip draws from; its window may lie anywhere."""
    temporal_stride: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 2, 4, 8, 16], min_length=1
    )
    """Strides in source frames that such a clip draws from."""
    temporal_box_probability: float = Field(default=0.0, ge=0, le=1)
    """Chance that such a clip shows the mean of each stride's frames instead of one of them."""
    gradient_checkpointing: bool = False
    select_by: Literal["accuracy", "balanced_accuracy", "macro_f1", "rmse", "joint"] = "accuracy"
    """Validation score that picks the best epoch and that early stopping watches. Of models that
    say places also rmse (world units, lowest), and joint = balanced accuracy - 0.1 x rmse / (rmse
    of always answering the mean of the training targets)."""
    keep_every_epochs: int | None = Field(default=None, ge=1)
    """Also keep the weights of every many epochs, in checkpoints/epoch_02 and so on."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Epochs without a better validation score before training ends; None = never."""
    early_stopping_min_delta: float = Field(default=0.0, ge=0)
    """Percentage points by which a score must beat the best to count as better for patience."""
    nonfinite: Literal["stop", "skip"] = "stop"
    nonfinite_limit: int = Field(default=3, ge=0)
    parallel: Literal["none", "ddp", "fsdp", "dp"] = "none"
    """How one run uses several devices: ddp = one process each (preferred, and the default where
    launch.devices is above 1); fsdp = the same with weights and optimizer cut over them; dp = one
    process that cuts batch_size over all GPUs of launch.device_ids, slower, for compatibility."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Also write a resume point every so many optimizer steps; one is always written per epoch."""
    log_every_steps: int = Field(default=10, ge=1)
    loader_threads: int = Field(default=1, ge=0)
    frame_cache_gib: float = Field(default=1.0, ge=0)
    """Decoded training frames kept in memory, per process; 0 = decode anew every epoch."""
    deterministic: bool = True
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"

    @field_validator("min_lr")
    @classmethod
    def _min_lr_below_lr(cls, min_lr: float | None, info: ValidationInfo) -> float | None:
        lr = info.data.get("lr")
        scaled = info.data.get("scale_lr") != "none"
        if min_lr is not None and lr is not None and min_lr > lr and not scaled:
            raise ValueError(f"above lr {lr:g}, which it ends")
        return min_lr
