"""Every field of the config is read by the program, by its path: none is idle.

Small runs take the way of alexnet_jax.main (prepare, train, save, resume, evaluate) with configs
that together reach every branch, while each access to a field is recorded. Accesses of code that
treats all fields alike do not count: checks, JSON, comparisons and copies. GoogLeNet, which
takes half a minute to compile, is not run: its training step is traced.
"""

import dataclasses
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from helpers.image_sets import write_folder, write_idx_set
from helpers.in_process import train_here

import alexnet_jax
from alexnet_jax import compatible, evaluate, fields, finetune, prepare, run_config, sharding
from alexnet_jax.analysis import collectives
from alexnet_jax.config import Config, ParallelConfig, validated
from alexnet_jax.data_config import DataConfig
from alexnet_jax.fields import Section
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.ops import (
    LRN,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    LocalConv,
    MaxPool,
    Op,
    ReLU,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.models.sequential_config import SequentialConfig

PACKAGE = str(Path(alexnet_jax.__file__).parent)
ABSTRACT = (Op, ModelConfig)
FIXED = {"model.ops.fc8.groups"}  # the classifier's, which the check holds at 1
# Files and functions, with what they call, that treat fields alike, whatever they mean.
GENERIC_FILES = {fields.__file__}
GENERIC = {
    validated.__code__,
    run_config.check_devices_and_patterns.__code__,  # the mesh is made again, to train on it
    finetune.check_init_from.__code__,
    prepare._settings.__code__,
    compatible.shared_settings.__code__,
}


class Recorder:
    """Records which fields are read, by path, such as "parallel.data".

    The path of a section is known from the access by which it was reached from a `Config`. A
    section that is in none, such as the ParallelConfig of a mesh to evaluate on, has no path, and
    reading it does not count.
    """

    def __init__(self) -> None:
        """Record nothing yet."""
        self.read: set[str] = set()
        # By id, since sections compare by value; the sections are kept, so that ids stay theirs.
        self._paths: dict[int, tuple[Section, str]] = {}
        self._lock = threading.Lock()  # images are prepared in threads

    def record(self, section: Section, name: str, value: object, caller: FrameType) -> None:
        """Record an access to a field, with the value found."""
        path = self._path(section)
        if path is None:
            return
        path = f"{path}.{name}" if path else name
        with self._lock:
            if isinstance(value, Section):
                self._paths[id(value)] = value, path
            elif isinstance(value, dict):
                for key, inner in value.items():
                    self._paths[id(inner)] = inner, f"{path}.{key}"
            elif path not in self.read and not is_generic(caller):
                self.read.add(path)

    def _path(self, section: Section) -> str | None:
        if isinstance(section, Config):
            return ""
        with self._lock:
            return self._paths.get(id(section), (None, None))[1]


def is_generic(frame: FrameType) -> bool:
    """Return whether an access is by generic code, or not by the package at all."""
    own = frame.f_code.co_filename
    if not own.startswith(PACKAGE) or own in GENERIC_FILES:
        return True
    walked: FrameType | None = frame
    while walked is not None:
        if walked.f_code in GENERIC:
            return True
        walked = walked.f_back
    return False


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Record within the context which fields are read."""
    recorder = Recorder()

    def get(section: Section, name: str) -> Any:
        value = object.__getattribute__(section, name)
        if not name.startswith("_") and name in fields.field_types(type(section)):
            recorder.record(section, name, value, sys._getframe(1))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Section, "__getattribute__", get, raising=False)
        yield recorder.read


def base(data: DataConfig, model: ModelConfig) -> Config:
    """Return the config of two steps of eight images."""
    config = Config(batch_size=8, max_steps=2, log_every=1, checkpoint_every=1, data=data)
    config.model = model
    config.learning_rate = 0.001
    return config


def gray(directory: Path) -> Config:
    """Two columns on two devices by two, all kinds of ops, the plateau rule, raw images."""
    write_idx_set(directory, train=18, test=8)  # 16 to train on: an epoch of two steps
    ops: dict[str, Op] = dict(
        conv1=Conv(4, kernel=3, stride=3), relu1=ReLU(), norm1=LRN(size=3), pool1=MaxPool(),
        conv2=Conv(4, kernel=2, groups=2), tanh2=Tanh(), rnorm2=WithinChannelLRN(size=3),
        fc6=Dense(4), relu6=ReLU(), drop6=Dropout(),
        fc8=Dense(0),
    )  # fmt: skip
    config = base(
        DataConfig(name="idx", dir=str(directory), image_size=28, crop=26),
        SequentialConfig(channels=1, num_columns=2, ops=ops),
    )
    config.schedule.rule = "plateau"
    config.epochs = 1
    config.parallel.data = config.parallel.columns = 2
    return config


def tuned(directory: Path, source: Path) -> Config:
    """The same with parameters of the run before."""
    config = gray(directory)
    config.init_from, config.init_layers = str(source), ("conv1",)
    return config


def color(directory: Path) -> Config:
    """A folder without splits, JPEG records, lighting, drops at epochs, a mean that is given."""
    write_folder(directory, {"a": 20, "b": 20}, side=70)
    ops: dict[str, Op] = dict(
        conv1=Conv(4, kernel=5, stride=5), relu1=ReLU(), pool1=MaxPool(), fc8=Dense(0)
    )
    data = DataConfig(name="folder", dir=str(directory), image_size=66, crop=60)
    data.mean, data.given_mean = "given", (120.0, 120.0, 120.0)
    return base(data, SequentialConfig(ops=ops))


def small(directory: Path) -> Config:
    """A residual network, averaged, with padded crops, a warm-up and drops by period."""
    write_idx_set(directory, train=18, test=8)
    data = DataConfig(name="idx", dir=str(directory), image_size=28, crop=28, padding=2)
    model = ResNetConfig(channels=1, width=2, stage_sizes=(1, 1))
    config = base(data, model)
    config.optimizer.ema_decay = 0.9
    config.schedule.warmup_steps, config.schedule.rule = 1, "period"
    return config


def branched() -> Config:
    """GoogLeNet with batch normalization and dropout."""
    model = GoogLeNetConfig(
        channels=1, stem="small", width=1 / 64, normalization="batch_norm", pool4_window=2
    )
    model.num_classes = 10
    return validated(base(DataConfig(image_size=28, crop=24), model))


def local(directory: Path) -> Config:
    """A locally-connected layer and an average pooling, in stages, crops of any aspect in order."""
    write_idx_set(directory, train=18, test=8)
    ops: dict[str, Op] = dict(
        conv1=Conv(4, kernel=3, stride=3), local2=LocalConv(4, 2), pool2=AvgPool(), fc8=Dense(0)
    )
    data = DataConfig(name="idx", dir=str(directory), image_size=28, crop=26, mean="channel")
    data.crop_area = (0.5, 1.0)
    data.shuffle, data.part_images, data.stages = False, 12, ((1, 8), (2, 16))
    return base(data, SequentialConfig(channels=1, ops=ops))


def every_field(config: Config) -> dict[str, type]:
    """Return the class that has the field, by the path of the field, for every field."""
    found: dict[str, type] = {}

    def walk(value: object, path: str, owner: type) -> None:
        if isinstance(value, Section):
            for name in fields.field_types(type(value)):
                inner = object.__getattribute__(value, name)
                walk(inner, f"{path}.{name}" if path else name, type(value))
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}", owner)
        else:
            found[path] = owner

    walk(config, "", type(config))
    return found


def run(config: Config, workdir: Path, *, resume: bool) -> None:
    """Train two steps, perhaps in two goes, and evaluate, as alexnet_jax.main does."""
    if resume:
        assert train_here(fields.replace(config, {"max_steps": 1}), workdir) == 0
    assert train_here(config, workdir) == 0
    evaluate.final_evaluation(workdir, sharding.make_mesh(config.parallel))


@pytest.mark.usefixtures("quick_to_compile")
def test_every_field_is_read(tmp_path: Path) -> None:
    """Catches a field that changes nothing, whoever sets it; that it is checked is not enough.

    Drop the read of any one field in the package, and its path is reported here.
    """
    configs_of_runs = {
        "gray": gray(tmp_path / "images"),
        "tuned": tuned(tmp_path / "images", tmp_path / "gray"),
        "color": color(tmp_path / "photos"),
        "small": small(tmp_path / "more"),
        "local": local(tmp_path / "more"),
    }
    expected: dict[str, type] = {}
    with recorded() as read:
        for name, config in configs_of_runs.items():
            run(config, tmp_path / name, resume=name == "gray")
            expected |= every_field(config)
        traced = branched()
        collectives.lower_train_step(traced, sharding.make_mesh(traced.parallel))
        expected |= every_field(traced)
    assert sorted(expected.keys() - read - FIXED) == []
    with_fields = {kind for kind in sections() if fields.field_types(kind)}
    assert {*expected.values()} == with_fields - {*ABSTRACT}


def sections(parent: type = Section) -> Iterator[type]:
    """Yield every config class of the package."""
    children: list[type] = parent.__subclasses__()
    for section in children:
        if section.__module__.startswith("alexnet_jax."):
            yield section
        yield from sections(section)


def test_reads_are_told_apart_by_path(tmp_path: Path) -> None:
    """Catches one field taken for another of the same name, checks and copies taken for reads,
    and a section that is in no config taken for one that is."""
    config = gray(tmp_path)
    with recorded() as read:
        validated(config)
        fields.to_json(config)
        dataclasses.replace(config)
        sharding.make_mesh(ParallelConfig(data=2))
        assert read == set()
        sharding.make_mesh(config.parallel)
        assert read == {"parallel.data", "parallel.columns"}
