"""How to train: stages, steps, the update rule, the rate, the loss, when to stop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from foveate.config.section import NamedSection, Section, Share

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]

_FINE_TUNE_SHARE_OF_RATE = 0.2


class OptimizerConfig(NamedSection):
    """The update rule."""

    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """Update rule."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    """Decoupled weight decay; never applied to biases and normalization (adamw, sgd)."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum (sgd, rmsprop)."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Largest global norm of the gradient; longer ones are shortened to it."""


class ScheduleConfig(NamedSection):
    """The learning rate over a stage, relative to its peak."""

    name: Literal["constant", "cosine", "one_cycle", "cyclical", "step", "plateau"] = "cosine"
    """Shape of the schedule."""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of the stage over which the rate rises linearly from zero."""
    floor: Share = 0.0
    """Lowest rate, as a share of the peak."""
    cycles: PositiveInt = 4
    """Number of triangles (cyclical) or of drops (step)."""
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """What a drop multiplies the rate by (step, plateau)."""
    patience: PositiveInt = 2
    """Epochs without improvement before a drop (plateau)."""


class LossConfig(NamedSection):
    """What training minimizes."""

    name: Literal["auto", "cross_entropy", "focal", "dice", "cross_entropy_dice"] = "auto"
    """Loss; `auto` is cross_entropy for labels, cross_entropy_dice for masks."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target spread evenly over all classes."""
    gamma: Annotated[float, Field(ge=0.0)] = 2.0
    """Focusing exponent (focal)."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs classes (pixels for masks) by the inverse of their frequency."""


class StoppingConfig(Section):
    """When to stop a stage early."""

    monitor: str = "val_loss"
    """Value to watch, such as `val_loss` or `val_accuracy`; also chooses the best epoch."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without improvement before the stage ends; 0 never stops early."""


class RecipeConfig(Section):
    """How to train."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Peak learning rate of the frozen stage, or of training from scratch."""
    epochs: PositiveInt | None = None
    """Epochs with a frozen backbone, or of training from scratch; when not set 10, or with
    budget.time as many as fit."""
    fine_tune_epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs with an unfrozen backbone; when not set and the backbone is pretrained 5, or with
    budget.time as many as fit."""
    fine_tune_learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    """Peak learning rate of the fine_tune stage; a fifth of `learning_rate` when not set."""
    unfreeze: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the backbone's layers, counted from the top, that the fine_tune stage trains; all
    when not set, unless a plan finds that this does not fit the memory or a short time."""
    frozen_views: Annotated[int, Field(ge=0)] | None = None
    """Views (augmented versions) of each training image whose features the frozen stage computes
    once and learns from; 1 is the image as it is, 0 computes all anew in each epoch, with new
    augmentation. When not set, what pays and fits the disk."""
    image_sizes: PositiveInt | None = None
    """Image sizes that the fine_tune stage, or training from scratch, goes through: from about
    half to the full one, with augmentation that grows with them; 1, when not set, is the full
    size alone. A plan says where more would be faster."""
    gradient_accumulation_steps: PositiveInt | None = None
    """Batches whose gradients are averaged into one step; when not set, what the effective batch
    size needs, else 1."""
    effective_batch_size: PositiveInt | None = None
    """Samples of one step: data.batch_size times gradient_accumulation_steps; 32 when none of
    the three is set."""
    precision: Literal["auto", Precision] = "auto"
    """Arithmetic of the layers; logits and loss are float32 under any. `auto` is float32, or
    mixed_bfloat16 where a plan has measured that it is faster here."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Update rule; a bare string is its name."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over a stage; a bare string is its name."""
    loss: LossConfig = LossConfig()
    """What is minimized; a bare string is its name."""
    stopping: StoppingConfig = StoppingConfig()
    """Early stopping and the choice of the best epoch."""

    @property
    def tuned_rate(self) -> float:
        """Peak learning rate of the fine_tune stage, stated or not."""
        return self.fine_tune_learning_rate or self.learning_rate * _FINE_TUNE_SHARE_OF_RATE

    @property
    def tuned_share(self) -> float:
        """Share of the backbone's layers that the fine_tune stage trains, stated or not."""
        return self.unfreeze or 1.0
