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
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section, check_value
from alexnet_jax.models import branched_config  # noqa: F401 - known to `config_from_json`
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.sequential_config import SequentialConfig

COMPUTE_DTYPES = ("float32", "bfloat16")
SCHEMES = ("columns", "one_weird_trick")
MAX_SEED = 2**32 - 1
RULES = ("epochs", "period", "plateau")


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
            in place of them, with the running statistics of training; 0 for none.
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
        seed: seed of the initial parameters and of all random draws, of 32 bits, since JAX makes
            the same key of seeds that differ in higher bits only.
        init_from: workdir of a run whose parameters to start from; "" for none.
        init_layers: names of the layers to take from that run; () takes all whose shapes fit.
        batch_size: number of images in a step, over all devices (section 5).
        epochs: number of passes through the training images, "roughly 90" (section 5).
        max_steps: step after which training ends before that; 0 for no limit.
        stop_error: top-1 training error, as a fraction. Training ends after the first epoch over
            whose steps the mean error is at most this; 0 for no such end.
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
    stop_error: float = 0.0
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
    config.data.check(config.model.channels)
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
    optimizer, schedule = config.optimizer, config.schedule
    counts = ("batch_size", "epochs", "log_every", "checkpoint_every", "evaluate_every")
    for name in (*counts, "keep_checkpoints"):
        check_value(name, getattr(config, name), "at least 1", getattr(config, name) >= 1)
    momentum, decay, factor = optimizer.momentum, optimizer.weight_decay, schedule.factor
    ema_decay, warmup_factor = optimizer.ema_decay, schedule.warmup_factor
    for name, value, expected, is_valid in (
        ("seed", config.seed, f"0 to {MAX_SEED}", 0 <= config.seed <= MAX_SEED),
        ("max_steps", config.max_steps, "0 for no limit, or more", config.max_steps >= 0),
        ("stop_error", config.stop_error, "from 0 to below 1", 0 <= config.stop_error < 1),
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
        (
            "schedule.drop_epochs",
            schedule.drop_epochs,
            "epochs of 1 or more",
            min(schedule.drop_epochs, default=1) >= 1,
        ),
        ("optimizer.ema_decay", ema_decay, "from 0 to below 1", 0 <= ema_decay < 1),
        ("schedule.period", schedule.period, "more than 0", schedule.period > 0),
        ("schedule.warmup_steps", schedule.warmup_steps, "0 or more", schedule.warmup_steps >= 0),
        ("schedule.warmup_factor", warmup_factor, "more than 0", warmup_factor > 0),
        ("schedule.patience", schedule.patience, "1 or more", schedule.patience >= 1),
        ("schedule.drops", schedule.drops, "0 or more", schedule.drops >= 0),
        ("model.channels", config.model.channels, "1 or more", config.model.channels >= 1),
        ("model.num_classes", config.model.num_classes, "0 or more", config.model.num_classes >= 0),
    ):
        check_value(name, value, expected, is_valid)


def _check_words(config: Config) -> None:
    """Check fields whose value is one of a list of words."""
    for name, value, words in (
        ("compute_dtype", config.compute_dtype, COMPUTE_DTYPES),
        ("schedule.rule", config.schedule.rule, RULES),
        ("parallel.scheme", config.parallel.scheme, SCHEMES),
    ):
        check_value(name, value, f"one of {', '.join(words)}", value in words)


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
            check_value(name, (pattern, *numbers), "factors of 0 or more", numbers[-1] >= 0)
    for entry in schedule.multipliers:
        check_value("schedule.multipliers", entry, "epochs of 1 or more", entry[1] >= 1)


def _check_parts(config: Config) -> None:
    """Check that the model can leave out the empty rows of smaller batches."""
    data = config.data
    if data.part_images and config.model.normalizes_batches():
        raise InputError(
            f"data.part_images={data.part_images} leaves rows of some batches empty, over which "
            f"the batch normalization of the {type(config.model).__name__} would average; "
            "expected 0"
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
