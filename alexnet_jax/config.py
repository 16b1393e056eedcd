"""The config of a run: frozen, validated dataclasses.

A config file's `get_config(variant)` returns a `Config`, whose fields the flags
--config.FIELD=VALUE override. `validated` checks all of it and seals it; the program works on
sealed configs. The defaults are those of the paper, whose section stands beside a field.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from alexnet_jax import fields
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section
from alexnet_jax.models.ops import ModelConfig, SequentialConfig

COMPUTE_DTYPES = ("float32", "bfloat16")
SCHEMES = ("columns", "one_weird_trick")
RULES = ("epochs", "plateau")
RESIZES = ("crop", "squash")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
LIGHTING = ("paper", "source2012", "none")
MEANS = ("image", "center", "channel", "given", "none")
CHANNEL_ORDERS = ("rgb", "bgr")


@dataclass
class DataConfig(Section):
    """Where images come from, how they are prepared, and what is drawn at random.

    Attributes:
        name: sample, folder, idx, or a data set of TensorFlow Datasets.
        dir: of the source: TensorFlow Datasets' data_dir, a folder, IDX files.
        pack_dir: where the prepared pack lies; "" is a cache folder.
        image_size: pixels of the shorter side, of which the central square is taken (section 2).
        resize: "crop" as above; "squash" scales each side to image_size, as for Caffe's weights.
        jpeg_quality, jpeg_subsampling: of packs of images too large to be kept raw.
        max_bad_share: unreadable images, as a share of a split, above which preparation stops.
        validation_share: of the training images, where a source has no validation split.
        test_share: of a folder without splits.
        split_seed: of the choice of images that are held out.
        crop: pixels a side of what the model sees (section 4.1).
        random_crop, flip: while training; False takes the center, and never mirrors.
        crop_chunk: how many consecutive images share a crop and a flip.
        lighting: "paper" (section 4.1); "source2012" scales by standard deviations; "none".
        lighting_std: of its coefficients (section 4.1).
        lighting_divisor: of the pixels, as long as there is lighting.
        lighting_end: epoch, counted from 1, at whose start lighting ends; 0 for never.
        mean: what is subtracted: "image", per pixel, under the crop (section 2); its "center";
            the mean of each "channel"; what is "given"; "none".
        given_mean: of mean "given": one number a channel (R, G, B).
        scale: factor of the inputs after the mean is subtracted.
        std: divisor of the inputs: one number, or one a channel (R, G, B).
        channel_order: of the inputs, "rgb"; "bgr" for Caffe's weights.
    """

    name: str = "imagenet2012"
    dir: str = ""
    pack_dir: str = ""
    image_size: int = 256
    resize: str = "crop"
    jpeg_quality: int = 95
    jpeg_subsampling: str = "4:4:4"
    max_bad_share: float = 0.001
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    crop: int = 224
    random_crop: bool = True
    flip: bool = True
    crop_chunk: int = 1
    lighting: str = "paper"
    lighting_std: float = 0.1
    lighting_divisor: float = 1.0
    lighting_end: int = 0
    mean: str = "image"
    given_mean: tuple[float, ...] = ()
    scale: float = 1.0
    std: tuple[float, ...] = (1.0,)
    channel_order: str = "rgb"


@dataclass
class OptimizerConfig(Section):
    """The update rule (section 5).

    Attributes:
        momentum: share of the last update that is kept.
        weight_decay: of all parameters, times the factors of `decay_multipliers`.
        decay_multipliers: (pattern, factor) for parameters whose path, such as "conv1/bias", the
            regular expression matches as a whole; the paper has none, its program
            ((".*/bias", 0.0),).
    """

    momentum: float = 0.9
    weight_decay: float = 0.0005
    decay_multipliers: tuple[tuple[str, float], ...] = ()


@dataclass
class ScheduleConfig(Section):
    """The learning rate over time (section 5).

    Attributes:
        rule: "epochs" divides it at the start of `drop_epochs`; "plateau" when the validation
            error stops improving.
        factor: of a drop: "divide the learning rate by 10".
        drop_epochs: counted from 1, as in the logs of the 2012 program, whose they are, rounded.
        patience: of rule "plateau": validations without a lower error.
        drops: of rule "plateau": at most.
        multipliers: (pattern, epoch, factor): from that epoch on, counted from 1 and not
            necessarily whole, the rate of the parameters whose path, such as "fc8/kernel", the
            regular expression matches as a whole is multiplied by the factor, until the next
            entry of the same pattern. (("fc8/.*", 1, 10.0),) lets a new fc8 learn faster.
    """

    rule: str = "epochs"
    factor: float = 0.1
    drop_epochs: tuple[float, ...] = (25, 51, 79)
    patience: int = 3
    drops: int = 3
    multipliers: tuple[tuple[str, float, float], ...] = ()


@dataclass
class ParallelConfig(Section):
    """The layout on devices.

    Attributes:
        columns: devices that share the columns of the model; 2 in the paper.
        data: such groups of devices, which share the batch.
        scheme: "columns" (section 3.5) or "one_weird_trick" (Krizhevsky 2014).
    """

    columns: int = 1
    data: int = 1
    scheme: str = "columns"


@dataclass
class Config(Section):
    """All of a run.

    Attributes:
        seed: of initial values and every random draw.
        init_from: the workdir of a run whose parameters to start from; "" for none.
        init_layers: which of its layers to take; () takes all whose shapes fit.
        batch_size: images in a step, of all devices together (section 5).
        epochs: "roughly 90 cycles through the training set" (section 5).
        max_steps: stop earlier; 0 for no limit.
        learning_rate: the first (section 5).
        compute_dtype: of the arithmetic, "float32" or "bfloat16"; parameters stay float32.
        evaluate_every: epochs between two evaluations on the validation split.
        checkpoint_every: steps.
        keep_checkpoints: the newest that are kept.
        log_every: steps.
    """

    seed: int = 0
    init_from: str = ""
    init_layers: tuple[str, ...] = ()
    batch_size: int = 128
    epochs: int = 90
    max_steps: int = 0
    learning_rate: float = 0.01
    compute_dtype: str = "float32"
    evaluate_every: int = 1
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    log_every: int = 50
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=SequentialConfig)


def validated(config: Config) -> Config:
    """Check a config, all that can be checked without devices and data, and seal it.

    Raises:
        InputError: a value of another type than its field's, or one that makes no sense.
    """
    fields.sealed(config)
    _check_numbers(config)
    _check_words(config)
    _check_patterns(config)
    _check_data(config)
    _check_parallel(config)
    config.model.check(config.data.crop)
    return config


def to_json(config: Config) -> fields.Json:
    """Return the config as what `json.dumps` takes."""
    content: fields.Json = fields.to_json(config)
    return content


def from_json(content: object) -> Config:
    """Return the validated config that `to_json` made the content from.

    Raises:
        InputError: it is not the content of a config.
    """
    return validated(fields.from_json(Config, content))


def with_changes(config: Config, changes: dict[str, Any]) -> Config:
    """Return a validated copy with some fields changed, by path, as {"data.crop": 227}.

    Raises:
        InputError: the changed config makes no sense.
    """
    return validated(fields.replace(config, changes))


def dumps(config: Config) -> str:
    """Return the config as JSON text, the same for equal configs."""
    return json.dumps(to_json(config))


def _check_numbers(config: Config) -> None:
    """Check the limits of single numbers."""
    data, optimizer, schedule = config.data, config.optimizer, config.schedule
    counts = ("batch_size", "epochs", "log_every", "checkpoint_every", "evaluate_every")
    for name in (*counts, "keep_checkpoints"):
        _check_value(name, getattr(config, name), "at least 1", getattr(config, name) >= 1)
    momentum, decay, factor = optimizer.momentum, optimizer.weight_decay, schedule.factor
    for name, value, expected, right in (
        ("max_steps", config.max_steps, "0 for no limit, or more", config.max_steps >= 0),
        ("learning_rate", config.learning_rate, "more than 0", config.learning_rate > 0),
        ("optimizer.momentum", momentum, "from 0 to below 1", 0 <= momentum < 1),
        ("optimizer.weight_decay", decay, "0 or more", decay >= 0),
        ("schedule.factor", factor, "more than 0", factor > 0),
        ("schedule.patience", schedule.patience, "1 or more", schedule.patience >= 1),
        ("schedule.drops", schedule.drops, "0 or more", schedule.drops >= 0),
        ("model.channels", config.model.channels, "1 or more", config.model.channels >= 1),
        ("model.num_classes", config.model.num_classes, "0 or more", config.model.num_classes >= 0),
        ("data.image_size", data.image_size, "1 or more", data.image_size >= 1),
        ("data.crop", data.crop, "1 or more", data.crop >= 1),
        ("data.jpeg_quality", data.jpeg_quality, "1 to 100", 1 <= data.jpeg_quality <= 100),
        ("data.max_bad_share", data.max_bad_share, "0 to 1", 0 <= data.max_bad_share <= 1),
        (
            "data.validation_share",
            data.validation_share,
            "in [0, 1)",
            _share(data.validation_share),
        ),
        ("data.test_share", data.test_share, "in [0, 1)", _share(data.test_share)),
        ("data.crop_chunk", data.crop_chunk, "1 or more", data.crop_chunk >= 1),
        ("data.lighting_divisor", data.lighting_divisor, "1 or more", data.lighting_divisor >= 1),
        ("data.lighting_end", data.lighting_end, "0 or more", data.lighting_end >= 0),
    ):
        _check_value(name, value, expected, right)


def _share(value: float) -> bool:
    return 0 <= value < 1


def _check_words(config: Config) -> None:
    """Check fields that take one of several words."""
    data = config.data
    for name, value, words in (
        ("compute_dtype", config.compute_dtype, COMPUTE_DTYPES),
        ("schedule.rule", config.schedule.rule, RULES),
        ("parallel.scheme", config.parallel.scheme, SCHEMES),
        ("data.resize", data.resize, RESIZES),
        ("data.jpeg_subsampling", data.jpeg_subsampling, SUBSAMPLINGS),
        ("data.lighting", data.lighting, LIGHTING),
        ("data.mean", data.mean, MEANS),
        ("data.channel_order", data.channel_order, CHANNEL_ORDERS),
    ):
        _check_value(name, value, f"one of {', '.join(words)}", value in words)


def _check_patterns(config: Config) -> None:
    """Check the patterns of parameters; that they match some is checked with the parameters."""
    optimizer, schedule = config.optimizer, config.schedule
    for name, entries in (
        ("optimizer.decay_multipliers", optimizer.decay_multipliers),
        ("schedule.multipliers", schedule.multipliers),
    ):
        for pattern, *numbers in entries:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"{name} has {pattern!r}: no regular expression: {error}"
                ) from None
            _check_value(name, (pattern, *numbers), "factors of 0 or more", numbers[-1] >= 0)
    for entry in schedule.multipliers:
        _check_value("schedule.multipliers", entry, "epochs of 1 or more", entry[1] >= 1)


def _check_data(config: Config) -> None:
    """Check what `data` says of channels against the model's."""
    data, channels = config.data, config.model.channels
    if len(data.given_mean) != (channels if data.mean == "given" else 0):
        raise InputError(
            f"data.given_mean is {data.given_mean} and data.mean={data.mean}; "
            f'expected {channels} numbers with "given", and none otherwise'
        )
    if len(data.std) not in (1, channels) or min(data.std) <= 0:
        raise InputError(
            f"data.std is {data.std}; expected one number above 0, or one for each of the "
            f"{channels} channels"
        )


def _check_parallel(config: Config) -> None:
    """Check that devices can share the model's columns and the batch."""
    data, columns = config.parallel.data, config.parallel.columns
    if min(data, columns) < 1:
        raise InputError(
            f"parallel.data={data} × parallel.columns={columns}; expected 1 or more of each"
        )
    config.model.check_columns(columns)
    if config.batch_size % data:
        raise InputError(
            f"batch_size={config.batch_size} is not a multiple of parallel.data={data}"
        )
    if config.parallel.scheme != "one_weird_trick":
        return
    if columns == 1:
        raise InputError(
            "parallel.scheme=one_weird_trick shares out the columns, and parallel.columns=1 keeps "
            "them together; expected parallel.columns=2, or parallel.scheme=columns"
        )
    if config.batch_size % (data * columns):
        raise InputError(
            f"batch_size={config.batch_size} is not a multiple of parallel.data={data} × "
            f"parallel.columns={columns}, which share it under parallel.scheme=one_weird_trick"
        )


def _check_value(name: str, value: object, expected: str, right: bool) -> None:
    if not right:
        raise InputError(f"{name}={value}; expected {expected}")
