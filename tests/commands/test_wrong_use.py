"""Wrong usage, config or data: one clear message, status 2, no traceback."""

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, processes
from helpers.in_process import train_here
from helpers.processes import message

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.models.ops import Dense, MaxPool, ReLU
from alexnet_jax.status import read_status
from alexnet_jax.trained import load_trained

SAMPLE = "--config=configs/alexnet.py:sample"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--config is missing; an example is --config=configs/alexnet.py:sample", "--help"]),
        ([SAMPLE, "--config.nonsense=1"], ["no field nonsense; did you mean "]),
        ([SAMPLE, "--config.model.nofield=1"], ["has no field model.nofield"]),
        (
            [SAMPLE, "--config.model.ops.norm1.sise=1"],
            ["no field model.ops.norm1.sise; did you mean size?"],
        ),
        ([SAMPLE, "--config.modle.init=x"], ["no field modle; did you mean model?"]),
        ([SAMPLE, "--config.model.ops.norm1.=3"], ["no field model.ops.norm1.; expected one of"]),
        (
            [SAMPLE, "--config.model.ops.conv9.features=1"],
            ["no field model.ops.conv9; did you mean conv"],
        ),
        ([SAMPLE, "--config.seed.x=1"], ["no field seed.x; seed is a value"]),
        (
            ["--config", "configs/alexnet.py:sample", "--config.modle.init", "x"],
            ["no field modle; did you mean model?"],
        ),
        ([SAMPLE, "--noconfig.data.filp"], ["no field data.filp; did you mean flip?"]),
        ([SAMPLE, "--config.model.ops.norm1=x"], ["config.model.ops.norm1=x: Unable to parse"]),
        (
            [SAMPLE, "--config.seed=3", "--config.data.corp=3"],
            ["no field data.corp; did you mean crop?"],
        ),
        ([SAMPLE, "--config.batch_size=many"], ["batch_size", "many"]),
        (["--config=configs/alexnet.py:sampel"], ["sampel", "did you mean sample? Known: "]),
        (["--config=configs/none.py"], ["cannot read", "configs/none.py", "configs/alexnet.py"]),
        ([SAMPLE, "--nonsense=1"], ["Unknown", "'nonsense'", "--help"]),
        ([SAMPLE, "sample"], ["unexpected arguments: sample"]),
        ([SAMPLE, "--config.parallel.columns=2"], ["2 devices", "has 1 (cpu)", "XLA_FLAGS"]),
        ([SAMPLE, "--config.data.name=sampel"], ["data.name=sampel", "did you mean sample"]),
    ],
    ids=lambda value: " ".join(value).replace("/", "_") if value else "nothing",
)
def test_main_refuses(tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    """Catches, for what users mistype most: a traceback, status 0 or 1, a message that does not
    name what was given and what would be right."""
    output = message(processes.run("main", *arguments, f"--workdir={tmp_path / 'run'}"))
    for part in expected:
        assert part in output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from ml_collections import ConfigDict as make", "returns a ConfigDict; expected an"),
        ("def make(): return type('Config', (), {'seed': 1})()", "returns a Config; expected"),
    ],
    ids=["ConfigDict", "another class"],
)
@pytest.mark.parametrize("override", [(), ("--config.model.dropout=0.1",)])
def test_config_file_of_another_type(
    tmp_path: Path, text: str, expected: str, override: tuple[str, ...]
) -> None:
    """Catches: a traceback for a config file written before configs were typed."""
    path = tmp_path / "old.py"
    path.write_text(f"{text}\n\n\ndef get_config():\n    return make()\n")
    output = message(processes.run("describe", f"--config={path}", *override))
    assert f"get_config of {path} {expected}" in output


def test_a_bug_in_a_config_file(tmp_path: Path) -> None:
    """Catches: an exception of the user's own code that is taken for a misspelled field, so that
    its place is not shown."""
    path = tmp_path / "bug.py"
    path.write_text("def get_config():\n    return {}['missing']\n")
    ended = processes.run("describe", f"--config={path}", "--config.seed=1")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "KeyError: 'missing'" in ended.stderr


def test_no_imagenet_here(tmp_path: Path) -> None:
    """Catches: a message without the way to get ImageNet, or to try without it; a warning of
    TensorFlow Datasets before it."""
    (tmp_path / "empty").mkdir()
    output = message(
        processes.run(
            "main",
            "--config=configs/alexnet.py",
            f"--config.data.dir={tmp_path / 'empty'}",
            f"--workdir={tmp_path / 'run'}",
        )
    )
    assert output.startswith("alexnet_jax.main: imagenet2012 is not prepared")
    assert "ILSVRC2012_img_train.tar" in output
    assert "python -m alexnet_jax.prepare --config=configs/alexnet.py" in output
    assert "python -m alexnet_jax.main --config=configs/alexnet.py:sample" in output


def test_interrupt_before_training(config_file: Path, tmp_path: Path) -> None:
    """Catches: a traceback at Ctrl-C while the program starts."""
    started = tmp_path / "run" / ".lock"
    process = processes.start("main", f"--config={config_file}", f"--workdir={tmp_path / 'run'}")
    ended = processes.signal_when(process, started.exists, signal.SIGINT)
    assert ended.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in ended.stderr


def test_a_loss_that_is_not_finite(config_file: Path, tmp_path: Path) -> None:
    """Catches: training on with NaN; saving it; losing the checkpoint before it; the exit status
    of wrong input for a divergence."""
    wild = ["--config.learning_rate=1e6", "--config.checkpoint_every=1", f"--workdir={tmp_path}"]
    output = message(processes.run("main", f"--config={config_file}", *wild), status=3)
    assert "not finite at step" in output
    assert "--config.learning_rate" in output
    model = load_trained(tmp_path)
    assert f"the checkpoint of step {model.step} is kept" in output
    ended = read_status(tmp_path)
    assert ended is not None
    assert (ended.status, ended.step) == ("diverged", model.step)
    (result,) = evaluate([model])[1]
    assert result["count"] == 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compute_dtype", "float16"),
        ("schedule.rule", "foo"),
        ("model.init", "foo"),
        ("data.lighting", "foo"),
        ("data.mean", "foo"),
        ("batch_size", 0),
        ("batch_size", -4),
        ("epochs", 0),
        ("epochs", -1),
        ("max_steps", -1),
        ("checkpoint_every", 0),
        ("log_every", 0),
        ("evaluate_every", 0),
        ("keep_checkpoints", 0),
        ("parallel.columns", 0),
        ("parallel.columns", 8),
        ("parallel.data", -1),
        ("parallel.data", 3),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("optimizer.momentum", 1.0),
        ("optimizer.weight_decay", -1.0),
        ("optimizer.decay_multipliers", ((".*/bias", -1.0),)),
        ("optimizer.decay_multipliers", (("conv9/.*", 0.0),)),
        ("optimizer.decay_multipliers", (("(", 0.0),)),
        ("schedule.factor", -1.0),
        ("schedule.patience", 0),
        ("schedule.multipliers", (("conv1", 1.0, 2.0),)),
        ("schedule.multipliers", (("conv1/.*", 0.5, 2.0),)),
        ("schedule.multipliers", (("conv1/.*", 1.0, -2.0),)),
        ("schedule.multipliers", (("conv1/.*", 1.0),)),
        ("model.num_columns", 0),
        ("model.num_columns", 3),
        ("model.num_classes", 7),
        ("model.num_classes", -1),
        ("model.channels", 0),
        ("model.ops.drop6.rate", 1.0),
        ("model.ops.drop6.rate", -0.1),
        ("model.ops.norm1.size", 0),
        ("model.ops.norm1.size", 4),
        ("model.ops.pool1.window", 0),
        ("model.ops.pool1.stride", 0),
        ("model.ops.pool1.stride", 4),
        ("model.ops.conv1.features", 0),
        ("model.ops.conv2.features", 5),
        ("model.ops.conv1.kernel", 0),
        ("model.ops.conv1.stride", 0),
        ("model.ops.conv1.padding", (-1, 0)),
        ("model.ops.conv1.padding", (1,)),
        ("model.ops.conv1.groups", 2),
        ("model.ops.conv2.groups", 0),
        ("model.ops.conv2.groups", 3),
        ("model.ops.fc6.features", 0),
        ("model.ops.fc6.groups", 4),
        ("model.ops.relu6", MaxPool()),
        ("model.ops.relu6", "tanh"),
        ("data.crop", 0),
        ("data.crop", 40),
        ("data.crop", 2.5),
        ("data.image_size", 0),
        ("data.validation_share", 1.5),
        ("data.std", ()),
        ("data.std", (1.0, 0.0)),
        ("data.given_mean", (1.0,)),
        ("data.name", None),
    ],
    ids=str,
)
def test_values_that_make_no_sense(
    config: Config, tmp_path: Path, field: str, value: object
) -> None:
    """Catches: a value that is not checked before it divides by zero or trains wrongly; an
    InputError that does not name the field."""
    with pytest.raises(InputError) as caught:
        train_here(fields.replace(config, {"max_steps": 2, field: value}), tmp_path)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.ops": {}}, "model.ops ends with nothing: None; expected a fully-connected layer"),
        ({"model.ops": {"fc6": Dense(8), "relu6": ReLU()}}, "model.ops ends with relu6: ReLU()"),
        ({"model.ops.fc8.features": 5}, "model.ops ends with fc8: Dense(features=5, "),
        ({"model.ops.fc8.groups": 2}, "model.ops ends with fc8: Dense(features=0, groups=2, "),
        ({"model.ops.conv1.kernel": 29}, "data.crop=26 is too small for the model: conv1 has a"),
        ({"data.crop": 1}, "data.crop=1 is too small for the model: pool1 has a window of 3×3"),
    ],
)
def test_ops_that_make_no_model(
    config: Config, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Catches: a model without a classifier, or one of other classes than the data's; a window
    that is larger than its input."""
    with pytest.raises(InputError) as caught:
        train_here(fields.replace(config, changes), tmp_path)
    assert message in str(caught.value)


def test_a_batch_larger_than_the_training_set(config: Config, tmp_path: Path) -> None:
    """Catches: an epoch counted as one batch; a batch that cannot be filled from two epochs."""
    config.data.validation_share = 0.9
    config.batch_size, config.max_steps, config.log_every = 30, 2, 1
    assert train_here(config, tmp_path) == 0
    found = [r for r in processes.records(tmp_path) if r["split"] == "train"]
    assert [r["count"] for r in found] == [30, 30]
    assert [r["epoch"] for r in found] == [30 / 12, 60 / 12]


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("main", ["--config", "--workdir"]),
        ("evaluate", ["--workdir", "--views", "--split", "--[no]json"]),
        ("predict", ["--workdir", "--[no]json"]),
        ("describe", ["--config", "--[no]json"]),
        ("prepare", ["--config"]),
    ],
)
def test_help(module: str, shown: list[str]) -> None:
    """Catches: absl's status 1 for --help; required flags demanded before it; flags not shown."""
    ended = processes.run(module, "--help")
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert f"python -m alexnet_jax.{module}" in ended.stdout
    for flag in shown:
        assert flag in ended.stdout


def test_a_reader_that_leaves() -> None:
    """Catches: the traceback of a broken pipe, as in `describe … | head`."""
    process = processes.start("describe", "--config=configs/alexnet.py", "--json")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = io.StringIO()  # `communicate` would read the closed one
    process.wait(processes.TIMEOUT)
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == ""


def test_describe_does_without_tensorflow() -> None:
    """Catches: seconds of imports for a table that needs no data."""
    program = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['--config=configs/alexnet.py']\n"
        "try:\n"
        "    runpy.run_module('alexnet_jax.describe', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program]
    environment = processes.environment()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
