"""The config of a run: dataclasses that are validated and then read-only.

The function `get_config(variant)` of a config file returns a `Config`, whose fields the flags
--config.FIELD=VALUE override. `validated` checks the config and seals it; the program works on
sealed configs only. The defaults are those of the paper; the attributes name its sections.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from alexnet_jax import fields
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section
from alexnet_jax.models import branched_config  # noqa: F401 - known to `config_from_json`
from alexnet_jax.models.ops import ModelConfig, SequentialConfig

COMPUTE_DTYPES = ("float32", "bfloat16")
SCHEMES = ("columns", "one_weird_trick")
RULES = ("epochs", "period", "plateau")
RESIZES = ("crop", "squash", "shorter_side")
RESIDENT = ("auto", "on", "off")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
LIGHTING = ("paper", "source2012", "none")
MEANS = ("image", "center", "channel", "given", "none")
CHANNEL_ORDERS = ("rgb", "bgr")
CROP_POSITIONS = ("all", "five", "center")


@dataclass
class DataConfig(Section):
    """The data set, its preparation and the augmentation.

    Attributes:
        name: "sample", "folder", "idx", "cifar10_binary", or the name of a set in TensorFlow
            Datasets.
        dir: folder of the source: the data_dir of TensorFlow Datasets, a folder of class folders,
            or a folder of IDX files or of CIFAR-10's binary files.
        pack_dir: folder of the prepared images; "" selects one in the user's cache.
        image_size: length in pixels to which the shorter side of an image is scaled.
        enlarge: also scale up the images of a source whose images all have one size below
            image_size, such as IDX files; False leaves them as they are.
        resize: "crop" cuts the central square out of the scaled image (section 2); "shorter_side"
            keeps all of it, so that crops come from the whole image (section 3.1 of Simonyan and
            Zisserman 2014); "squash" scales both sides to image_size, as Caffe's published weights
            need.
        jpeg_quality, jpeg_subsampling: encoding of prepared images that are too large to be
            stored as raw pixels.
        max_bad_share: share of unreadable images in a split above which preparation stops.
        validation_share: share of the training images that become the validation split, if the
            source has none.
        test_share: share of the training images that become the test split, if the source has
            neither a validation nor a test split.
        split_seed: seed that selects the images of those splits.
        shuffle: draw a new order of the training images for every epoch; False takes them in the
            order of the source.
        part_images: number of images in a part of an epoch. A step takes images of one part, so
            that the last batch of a part may be smaller; cuda-convnet's parts are the 10,000 images
            of a file. 0 for batches that are always full and continue in the next epoch.
        stages: pairs (epoch, images). From that epoch on, counted from 1, epochs consist of the
            first so many images of the training split; () for all images. Needs parts, and no
            shuffling.
        crop: side of the model's input in pixels (section 4.1).
        crop_positions: positions of training crops: "all" draws any (section 4.1); "five" draws
            one of the four corners and the center (section 3 of Zeiler and Fergus 2013); "center"
            takes the center.
        scale_jitter: smallest and largest length in pixels to which the shorter side of a training
            image is scaled, drawn anew for each image (section 3.1 of Simonyan and Zisserman 2014);
            () keeps image_size. Evaluation uses their mean.
        crop_area: smallest and largest share of the image's area that a training crop has before it
            is scaled to `crop`, drawn uniformly for each image (section 6 of Szegedy et al. 2014);
            () for crops of fixed size.
        crop_aspect: smallest and largest ratio of width to height of such crops; its logarithm is
            drawn uniformly.
        padding: pixels of zeros around a training image, after the mean is subtracted, within which
            its crop is drawn (section 4.2 of He et al. 2015).
        flip: mirror training crops at random.
        crop_chunk: number of consecutive training images that share a crop position and a flip.
        lighting: "paper" adds the color noise of section 4.1; "source2012" scales it by standard
            deviations in place of eigenvalues; "none" adds none.
        lighting_std: standard deviation of the lighting coefficients α (section 4.1).
        lighting_divisor: divisor of the pixels while lighting is on.
        lighting_end: epoch, counted from 1, at whose start lighting is turned off; 0 for never.
        mean: mean to subtract: "image" subtracts the mean image at the position of the crop
            (section 2), "center" its central crop, "channel" the mean of each channel, "given"
            the numbers in `given_mean`, "none" nothing.
        given_mean: one number per channel (R, G, B), used if mean is "given".
        scale: factor by which inputs are multiplied after the mean is subtracted.
        std: divisor of the inputs, one number or one per channel (R, G, B).
        channel_order: order of the model's input channels, "rgb", or "bgr" for Caffe's weights.
        resident: "on" keeps the images on every device, where steps cut their crops; "off" cuts
            crops on the host; "auto" is "on" for accelerators if the images fit.
    """

    name: str = "imagenet2012"
    dir: str = ""
    pack_dir: str = ""
    image_size: int = 256
    enlarge: bool = False
    resize: str = "crop"
    jpeg_quality: int = 95
    jpeg_subsampling: str = "4:4:4"
    max_bad_share: float = 0.001
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 0
    shuffle: bool = True
    part_images: int = 0
    stages: tuple[tuple[int, int], ...] = ()
    crop: int = 224
    crop_positions: str = "all"
    scale_jitter: tuple[int, ...] = ()
    crop_area: tuple[float, ...] = ()
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 0
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
    resident: str = "auto"


@dataclass
class OptimizerConfig(Section):
    """The update rule (section 5).

    Attributes:
        momentum: factor by which the last update enters the next one.
        weight_decay: decay of every parameter, multiplied by the factors in `decay_multipliers`.
        decay_multipliers: pairs (pattern, factor). The factor applies to parameters whose path,
            such as "conv1/bias", fully matches the regular expression. The paper has no
            multipliers; the 2012 program has ((".*/bias", 0.0),).
        max_filter_rms: largest root mean square of the weights of a filter in a convolution. After
            each update, larger filters are scaled down to it (section 3 of Zeiler and Fergus
            2013); 0 for no limit.
        ema_decay: decay of the moving average of the parameters, which is evaluated and exported
            in place of them; 0 for none.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0005
    decay_multipliers: tuple[tuple[str, float], ...] = ()
    max_filter_rms: float = 0.0
    ema_decay: float = 0.0


@dataclass
class ScheduleConfig(Section):
    """The learning rate over time (section 5).

    Attributes:
        rule: "epochs" drops the rate at the start of each epoch in `drop_epochs`; "period" after
            every `period` epochs; "plateau" when the validation error stops improving.
        factor: factor of the rate at a drop ("divide the learning rate by 10").
        drop_epochs: epochs of the drops, counted from 1; by default those in the logs of the
            2012 program, rounded.
        period: number of epochs between two drops by rule "period".
        patience: number of validations without a lower error before a drop by rule "plateau".
        drops: largest number of drops by rule "plateau".
        warmup_steps: number of first steps in which the rate is multiplied by `warmup_factor`.
        warmup_factor: factor of the rate in those steps.
        multipliers: triples (pattern, epoch, factor). From that epoch on, counted from 1 and
            possibly fractional, the factor multiplies the rate of parameters whose path, such as
            "fc8/kernel", fully matches the regular expression, until the next entry with the
            same pattern. (("fc8/.*", 1, 10.0),) lets a new fc8 learn faster.
    """

    rule: str = "epochs"
    factor: float = 0.1
    drop_epochs: tuple[float, ...] = (25, 51, 79)
    period: float = 8
    patience: int = 3
    drops: int = 3
    warmup_steps: int = 0
    warmup_factor: float = 0.1
    multipliers: tuple[tuple[str, float, float], ...] = ()


@dataclass
class ParallelConfig(Section):
    """The layout on devices.

    Attributes:
        columns: number of devices over which the columns of the model are split; 2 in the paper.
        data: number of such groups of devices, over which the batch is split.
        scheme: "columns" (section 3.5) or "one_weird_trick" (Krizhevsky 2014).
    """

    columns: int = 1
    data: int = 1
    scheme: str = "columns"


@dataclass
class Config(Section):
    """The complete config of a run.

    Attributes:
        seed: seed of the initial parameters and of all random draws.
        init_from: workdir of a run whose parameters to start from; "" for none.
        init_layers: names of the layers to take from that run; () takes all whose shapes fit.
        batch_size: number of images in a step, over all devices (section 5).
        epochs: number of passes through the training images, "roughly 90" (section 5).
        max_steps: step after which training ends before that; 0 for no limit.
        learning_rate: initial learning rate (section 5).
        compute_dtype: type of the arithmetic, "float32" or "bfloat16"; parameters are float32.
        evaluate_every: number of epochs between two evaluations on the validation split.
        checkpoint_every: number of steps between two checkpoints.
        keep_checkpoints: number of checkpoints to keep, the newest ones.
        log_every: number of steps between two records of the training metrics.
        optimizer: the update rule.
        schedule: the learning rate over time.
        parallel: the layout on devices.
        data: the data set, its preparation and the augmentation.
        model: the model, a subclass of `ModelConfig`.
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
    """Check all of a config that can be checked without devices and data, and seal it.

    Raises:
        InputError: a value has another type than its field, or is out of range.
    """
    fields.sealed(config)
    _check_numbers(config)
    _check_words(config)
    _check_patterns(config)
    _check_data(config)
    _check_parts(config)
    _check_parallel(config)
    config.model.check(config.data.crop)
    return config


def config_to_json(config: Config) -> fields.Json:
    """Return the config as a JSON object."""
    content: fields.Json = fields.to_json(config)
    return content


def config_from_json(content: object) -> Config:
    """Return the validated config that a JSON object from `config_to_json` describes.

    Raises:
        InputError: the content is not that of a config.
    """
    return validated(fields.from_json(Config, content))


def with_changes(config: Config, changes: dict[str, Any]) -> Config:
    """Return a validated copy with some fields changed.

    Args:
        changes: new values by the path of their field, such as {"data.crop": 227}.

    Raises:
        InputError: the changed config is not valid.
    """
    return validated(fields.replace(config, changes))


def config_to_text(config: Config) -> str:
    """Return the config as JSON text, the same for equal configs."""
    return json.dumps(config_to_json(config))


def sequential_model(config: Config) -> SequentialConfig:
    """Return the config of a sequential model.

    Raises:
        InputError: the model is not sequential.
    """
    if not isinstance(config.model, SequentialConfig):
        raise InputError(
            f"the model is a {type(config.model).__name__}; expected a sequential model"
        )
    return config.model


def _check_numbers(config: Config) -> None:
    """Check that every number is in its range."""
    data, optimizer, schedule = config.data, config.optimizer, config.schedule
    counts = ("batch_size", "epochs", "log_every", "checkpoint_every", "evaluate_every")
    for name in (*counts, "keep_checkpoints"):
        _check_value(name, getattr(config, name), "at least 1", getattr(config, name) >= 1)
    momentum, decay, factor = optimizer.momentum, optimizer.weight_decay, schedule.factor
    ema_decay, warmup_factor = optimizer.ema_decay, schedule.warmup_factor
    for name, value, expected, is_valid in (
        ("max_steps", config.max_steps, "0 for no limit, or more", config.max_steps >= 0),
        ("learning_rate", config.learning_rate, "more than 0", config.learning_rate > 0),
        ("optimizer.momentum", momentum, "from 0 to below 1", 0 <= momentum < 1),
        ("optimizer.weight_decay", decay, "0 or more", decay >= 0),
        (
            "optimizer.max_filter_rms",
            optimizer.max_filter_rms,
            "more than 0, or 0 for no limit",
            optimizer.max_filter_rms >= 0,
        ),
        ("schedule.factor", factor, "more than 0", factor > 0),
        ("optimizer.ema_decay", ema_decay, "from 0 to below 1", 0 <= ema_decay < 1),
        ("schedule.period", schedule.period, "more than 0", schedule.period > 0),
        ("schedule.warmup_steps", schedule.warmup_steps, "0 or more", schedule.warmup_steps >= 0),
        ("schedule.warmup_factor", warmup_factor, "more than 0", warmup_factor > 0),
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
            _is_share(data.validation_share),
        ),
        ("data.test_share", data.test_share, "in [0, 1)", _is_share(data.test_share)),
        ("data.padding", data.padding, "0 or more", data.padding >= 0),
        ("data.part_images", data.part_images, "0 or more", data.part_images >= 0),
        ("data.crop_chunk", data.crop_chunk, "1 or more", data.crop_chunk >= 1),
        ("data.lighting_divisor", data.lighting_divisor, "1 or more", data.lighting_divisor >= 1),
        ("data.lighting_end", data.lighting_end, "0 or more", data.lighting_end >= 0),
    ):
        _check_value(name, value, expected, is_valid)


def _is_share(value: float) -> bool:
    """Return whether a number is at least 0 and below 1."""
    return 0 <= value < 1


def _check_words(config: Config) -> None:
    """Check fields whose value is one of a list of words."""
    data = config.data
    for name, value, words in (
        ("compute_dtype", config.compute_dtype, COMPUTE_DTYPES),
        ("schedule.rule", config.schedule.rule, RULES),
        ("parallel.scheme", config.parallel.scheme, SCHEMES),
        ("data.resize", data.resize, RESIZES),
        ("data.jpeg_subsampling", data.jpeg_subsampling, SUBSAMPLINGS),
        ("data.crop_positions", data.crop_positions, CROP_POSITIONS),
        ("data.lighting", data.lighting, LIGHTING),
        ("data.mean", data.mean, MEANS),
        ("data.channel_order", data.channel_order, CHANNEL_ORDERS),
        ("data.resident", data.resident, RESIDENT),
    ):
        _check_value(name, value, f"one of {', '.join(words)}", value in words)


def _check_patterns(config: Config) -> None:
    """Check the patterns and factors of multipliers; `schedules.check_patterns` matches them."""
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
    """Check the fields of `data` that depend on others or on the model's channels."""
    data, channels = config.data, config.model.channels
    if len(data.given_mean) != (channels if data.mean == "given" else 0):
        raise InputError(
            f"data.given_mean is {data.given_mean} and data.mean={data.mean}; "
            f'expected {channels} numbers with "given", and none otherwise'
        )
    jitter = data.scale_jitter
    if jitter and not (len(jitter) == 2 and data.crop <= jitter[0] <= jitter[1]):
        raise InputError(
            f"data.scale_jitter is {jitter}; expected (), or the smallest and the largest length, "
            f"which are at least data.crop={data.crop}"
        )
    area, aspect = data.crop_area, data.crop_aspect
    if area and not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
        raise InputError(
            f"data.crop_area is {area}; expected (), or the smallest and the largest share, which "
            "are more than 0 and at most 1"
        )
    if not 0 < aspect[0] <= aspect[1]:
        raise InputError(
            f"data.crop_aspect is {aspect}; expected the smallest and the largest ratio, above 0"
        )
    for name in ("scale_jitter", "crop_area"):
        if getattr(data, name) and data.mean in ("image", "center"):
            raise InputError(
                f"data.{name} scales images, and data.mean={data.mean} is a mean for each pixel; "
                "expected data.mean=channel, given or none"
            )
        if getattr(data, name) and data.resident == "on":
            raise InputError(
                f"data.{name} scales images, for which the host cuts the crops, and "
                "data.resident=on; expected data.resident=auto"
            )
    if sum(bool(value) for value in (jitter, area, data.padding)) > 1:
        raise InputError(
            f"data.scale_jitter={jitter}, data.crop_area={area} and data.padding={data.padding} "
            "all determine the crop; expected one of them"
        )
    if data.resize == "shorter_side" and data.mean in ("image", "center"):
        raise InputError(
            f"data.resize=shorter_side keeps images of different shapes, and data.mean={data.mean} "
            "is a mean for each pixel; expected data.mean=channel, given or none, or "
            "data.resize=crop"
        )
    if data.resize == "shorter_side" and data.padding:
        raise InputError(
            f"data.padding={data.padding} surrounds square images; expected data.padding=0 with "
            "data.resize=shorter_side, or data.resize=crop"
        )
    if len(data.std) not in (1, channels) or min(data.std) <= 0:
        raise InputError(
            f"data.std is {data.std}; expected one number above 0, or one for each of the "
            f"{channels} channels"
        )


def _check_parts(config: Config) -> None:
    """Check the parts of an epoch and the stages of the training set."""
    data = config.data
    if data.part_images and not isinstance(config.model, SequentialConfig):
        raise InputError(
            f"data.part_images={data.part_images} leaves rows of some batches empty, over which "
            f"the batch normalization of a {type(config.model).__name__} would average; expected 0"
        )
    epochs = [epoch for epoch, _ in data.stages]
    if epochs and (epochs[0] != 1 or epochs != sorted({*epochs})):
        raise InputError(f"data.stages={data.stages}; expected ascending epochs, the first one 1")
    for epoch, images in data.stages:
        _check_value("data.stages", (epoch, images), "1 image or more", images >= 1)
    if data.stages and (data.shuffle or not data.part_images):
        raise InputError(
            f"data.stages={data.stages} needs epochs in a fixed order and in parts; expected "
            "data.shuffle=False and data.part_images of 1 or more"
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


def _check_value(name: str, value: object, expected: str, is_valid: bool) -> None:
    """Raise InputError unless a value is valid."""
    if not is_valid:
        raise InputError(f"{name}={value}; expected {expected}")
