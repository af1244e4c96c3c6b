"""Every setting of a run: frozen, bounded, documented under its own field.

The dotted path of a field (``recipe.learning_rate``) is its TOML key, its command-line flag and
its name in error messages. Ranges of augmentation live in `foveate.config.augmentation`, how a
model learns in `foveate.config.recipe`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ByteSize, Field, PositiveInt, field_validator, model_validator

from foveate.config.augmentation import AugmentConfig
from foveate.config.recipe import RecipeConfig
from foveate.config.search import SearchConfig
from foveate.config.section import Seconds, Section, Share, square
from foveate.config.tiles import TilesConfig

Backend = Literal["tensorflow", "jax", "torch"]
_BATCH_SIZE = 32  # of a step, unless something is said
CACHE_BYTES = 4 * 1024**3
"""Disk space of a cache, unless something is said."""
Level = Annotated[int, Field(ge=0, le=255)]


class DecodeConfig(Section):
    """How files become pixels."""

    background: tuple[Level, Level, Level] = (255, 255, 255)
    """Colour (red, green, blue; 0 to 255) that shows through transparent pixels."""
    range_16bit: tuple[int, int] | None = None
    """Values of a 16-bit image that become black and white; such images are refused without it."""
    max_pixels: PositiveInt = 200_000_000
    """Images whose header announces more pixels are refused before they are decoded."""

    @field_validator("range_16bit")
    @classmethod
    def _rising(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"range_16bit must be black, then a higher white, but got {value}")
        return value


class ColumnConfig(Section):
    """What metadata columns hold, where the inferred kind is not the right one."""

    numeric: tuple[str, ...] = ()
    """Metadata columns to read as numbers."""
    categorical: tuple[str, ...] = ()
    """Metadata columns to read as categories, even where they hold numbers."""
    log: tuple[str, ...] = ()
    """Numeric columns (all values above -1) to pass through log(1 + x) before scaling."""


class MaskConfig(Section):
    """What the values of a segmentation mask mean."""

    ignore: Annotated[int, Field(ge=0, le=255)] | None = None
    """Mask value that marks unlabelled pixels: neither trained on nor scored."""
    class_names: tuple[str, ...] = ()
    """Names of the mask values in ascending order; the values themselves when empty."""


class SplitConfig(Section):
    """How rows without a given split are divided."""

    validation: Share = 0.1
    """Share of the rows held out to choose the best epoch."""
    test: Share = 0.1
    """Share of the rows held out for the final judgement."""

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> SplitConfig:
        if self.validation + self.test >= 1.0:
            raise ValueError(
                f"validation + test must be below 1, but got {self.validation + self.test}"
            )
        return self


class DataConfig(Section):
    """What to train on."""

    image: str = "image"
    """Column of image paths, or the sub-folder that holds the images."""
    label: str | None = None
    """Column of class labels; `label` is used if the table has it and no mask is named."""
    mask: str | None = None
    """Column of mask paths, or the sub-folder that holds the masks."""
    metadata: tuple[str, ...] = ()
    """Columns to feed the model beside the image."""
    group: str | None = None
    """Column whose equal values never fall into different splits (a patient, a scene)."""
    split: str | None = None
    """Column that says `train`, `validation` or `test` for each row."""
    weight: str | None = None
    """Column of sample weights, zero or positive, for the losses and metrics of training; when a
    model is judged, all samples count alike."""
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) in pixels the model sees; the tile's, or else the backbone's native size
    when not set."""
    tiles: TilesConfig = TilesConfig()
    """Reading images with masks in tiles, where they are far larger than what the model sees."""
    batch_size: PositiveInt | None = None
    """Samples the loader yields at once; when not set, as many as a step takes, or as many as fit
    into the budget."""
    unreadable: Literal["fail", "skip"] = "fail"
    """What a file that cannot be read does: stop the run, or be left out and listed."""
    max_unreadable: Share = 0.01
    """Share of a split's rows that may be left out; the run stops above it."""
    columns: ColumnConfig = ColumnConfig()
    """Declared kinds of the metadata columns."""
    masks: MaskConfig = MaskConfig()
    """Meaning of mask values."""
    splits: SplitConfig = SplitConfig()
    """Shares of the splits that the data does not give."""
    decode: DecodeConfig = DecodeConfig()
    """From file to pixels."""

    _square = field_validator("image_size", mode="before")(square)


class LoaderConfig(Section):
    """How fast and how far ahead batches are read."""

    threads: PositiveInt | None = None
    """Threads that read, decode and augment; one per processor when not set."""
    queue: ByteSize = ByteSize(256 * 1024**2)
    """Most memory that batches waiting for the model may take, such as "256MiB"."""
    processes: Annotated[int, Field(ge=0)] | None = None
    """Processes that share the threads' work; 0 for none, which is best on few cores. When not
    set, none, or as many as a plan has measured to be faster."""
    sampling: Literal["uniform", "balanced", "weighted"] = "uniform"
    """Which training rows an epoch draws: each once; each class equally often; or each row in
    proportion to its weight (data.weight)."""
    repeat: PositiveInt = 1
    """How often an epoch goes over the training rows."""
    cache: ByteSize | None = None
    """Most space on the temporary disk for what is read from s3://, gs:// or http(s)://, and for
    the decoded images that tiles are cut from; when not set 4 GiB, at most a third of
    budget.disk."""


class ModelConfig(Section):
    """The network."""

    backbone: str = "efficientnet_lite0"
    """Name in the backbone table, or "module:function" that builds a Keras model."""
    weights: str = "auto"
    """`imagenet`, `none`, a weights file, or `auto`: imagenet where the backbone has them."""
    pooling: Literal["average", "max", "both"] = "average"
    """How the backbone's last feature map becomes one vector (classification)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Share of head features dropped at random in training."""
    l1: Annotated[float, Field(ge=0.0)] = 0.0
    """L1 penalty on the head's kernel."""
    l2: Annotated[float, Field(ge=0.0)] = 0.0
    """L2 penalty on the head's kernel."""
    fusion: Literal["concatenate", "film"] = "concatenate"
    """How metadata joins the image: beside its features, or scaling and shifting them (FiLM)."""
    decoder_channels: tuple[PositiveInt, ...] = (256, 128, 64, 32, 16)
    """Channels of the U-Net decoder from the bottleneck up (segmentation)."""


class CheckpointConfig(Section):
    """How often a run stores all it needs to go on after a crash or a power cut."""

    every: Seconds = 600.0
    """Longest training between two checkpoints: seconds, or a text such as "90s", "10m", "2h"."""
    every_steps: PositiveInt | None = None
    """Most steps between two checkpoints; only the time counts when not set."""


class BudgetConfig(Section):
    """What a run may take."""

    ram: ByteSize | None = None
    """Most memory of the run and its processes together, such as "4GiB"."""
    gpu_memory: ByteSize | None = None
    """Most memory of the accelerator, such as "8GiB"; the batch is planned to fit it."""
    disk: ByteSize | None = None
    """Most disk space of the run: checkpoints, model, what a frozen backbone makes of the images,
    and loader.cache where that is used; when not set, what a backbone makes of the images takes
    half of what is free, at most 10 GiB."""
    time: Seconds | None = None
    """Longest time from start to report: seconds, or a text such as "90s", "10m", "2h"."""
    cpus: PositiveInt | None = None
    """Most processors to compute on; all of them when not set."""


class RuntimeConfig(Section):
    """What computes."""

    backend: Literal["auto", "fastest", Backend] = "auto"
    """Keras backend; `auto` takes KERAS_BACKEND, else the first installed of the three, and
    `fastest` has a plan measure all that are installed."""


class RunConfig(Section):
    """Everything a user can state about a run."""

    task: Literal["auto", "classification", "segmentation"] = "auto"
    """What is predicted; `auto` looks for labels and masks."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The one seed: splits, initial weights, order, augmentation."""
    data: DataConfig = DataConfig()
    """What to train on."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes to training images."""
    loader: LoaderConfig = LoaderConfig()
    """Reading ahead."""
    model: ModelConfig = ModelConfig()
    """The network."""
    recipe: RecipeConfig = RecipeConfig()
    """How to train."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Going on after a crash."""
    budget: BudgetConfig = BudgetConfig()
    """What the run may take."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What computes."""
    search: SearchConfig = SearchConfig()
    """Trying settings out; of no account for a single run."""

    @property
    def batch_size(self) -> int:
        """Samples the loader yields at once."""
        return self.data.batch_size or self.effective_batch_size // (
            self.recipe.gradient_accumulation_steps or 1
        )

    @property
    def effective_batch_size(self) -> int:
        """Samples of one step."""
        stated = self.recipe.effective_batch_size
        if stated is not None:
            return stated
        steps = self.recipe.gradient_accumulation_steps
        return (self.data.batch_size or _BATCH_SIZE // (steps or 1) or 1) * (steps or 1)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Batches of one step."""
        return self.effective_batch_size // self.batch_size

    @property
    def cache_bytes(self) -> int:
        """Most disk space that a process, or all that load for it, keep files in for a while."""
        if self.loader.cache is not None:
            return int(self.loader.cache)
        disk = self.budget.disk
        return CACHE_BYTES if disk is None else min(CACHE_BYTES, int(disk) // 3)

    @model_validator(mode="after")
    def _batches_make_a_step(self) -> RunConfig:
        whole = self.recipe.effective_batch_size
        batch, steps = self.data.batch_size, self.recipe.gradient_accumulation_steps
        if whole is not None and (whole % (batch or 1) or whole % (steps or 1)):
            fits = False
        else:
            fits = whole is None or not (batch and steps) or batch * steps == whole
        if not fits:
            raise ValueError(
                "data.batch_size times recipe.gradient_accumulation_steps must be "
                f"recipe.effective_batch_size, but got {batch=}, {steps=}, {whole=}; leave one out"
            )
        return self
