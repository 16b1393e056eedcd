"""Wrong usage, config or data: one clear message, status 2, no traceback."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, processes
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here

from alexnet_jax import command, fields
from alexnet_jax.config import Config, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.models.ops import Dense, MaxPool, ReLU
from alexnet_jax.status import read_status
from alexnet_jax.trained import load_trained
from alexnet_jax.workdir import write_config

SAMPLE = "--config=configs/alexnet.py:sample"


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small config, on images whose pack is made once."""
    folder = tmp_path_factory.mktemp("wrong_use")
    write_idx_set(folder / "data", train=120, test=20)
    return processes.write_config(folder, folder / "data")


@pytest.fixture
def config(config_file: Path) -> Config:
    """The same config in this process, neither checked nor sealed."""
    return command.load_config(str(config_file))


def message(ended: subprocess.CompletedProcess[str], status: int = 2) -> str:
    """Return the one message that a refused command printed on stderr."""
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\nalexnet_jax.") + ended.stderr.startswith("alexnet_jax.") == 1
    return ended.stderr


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
        (["--config=configs/alexnet.py:sampel"], ["sampel", "known: ", "sample"]),
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


def test_workdir_of_another_config(config_file: Path, config: Config, tmp_path: Path) -> None:
    """Catches: going on with another batch size; the field, old or new value left unsaid."""
    write_config(tmp_path, with_changes(config, {"model.num_classes": 5}), 0)
    other = [f"--config={config_file}", "--config.batch_size=4", f"--workdir={tmp_path}"]
    output = message(processes.run("main", *other))
    assert "batch_size was 8, is 4" in output
    assert str(tmp_path) in output


def finished_run(config: Config, workdir: Path) -> Path:
    """Train for two steps and return the folder of the run."""
    assert train_here(fields.replace(config, {"max_steps": 2}), workdir) == 0
    return workdir


def make_config_of_earlier_format(workdir: Path) -> None:
    """Turn config.json into one of the format before ops, which had no version."""
    path = workdir / "config.json"
    recorded = json.loads(path.read_text())
    del recorded["format_version"], recorded["optimizer"]
    layer = {"features": 4, "kernel": 3, "stride": 3, "sees": "own", "after": ["relu", "lrn"]}
    recorded.update(
        momentum=0.9,
        weight_decay=0.0005,
        model={"columns": 2, "classes": 5, "layers": {"conv1": layer}},
    )
    path.write_text(json.dumps(recorded))


def make_checkpoints_of_earlier_format(workdir: Path) -> None:
    """Rename the items of the checkpoints as they were called in the first format."""
    for step in (workdir / "checkpoints").iterdir():
        for now, before in (
            ("metadata", "about"),
            ("train_state", "rest"),
            ("variables", "params"),
        ):
            (step / now).rename(step / before)


@pytest.mark.parametrize("part", ["config", "checkpoints"])
@pytest.mark.parametrize("module", ["main", "evaluate", "predict", "init_from"])
def test_run_of_an_earlier_version(
    config_file: Path, config: Config, tmp_path: Path, part: str, module: str
) -> None:
    """Catches: fields that are all called different or unknown; a checkpoint called damaged,
    renamed or passed over; training anew in the folder of a run; status 1 with a traceback."""
    old = finished_run(config, tmp_path / "old")
    if part == "config":
        make_config_of_earlier_format(old)
    else:
        make_checkpoints_of_earlier_format(old)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    train_old = ["--config.max_steps=4", f"--workdir={old}"]
    init_from_old = [f"--config.init_from={old}", f"--workdir={tmp_path / 'new'}"]
    arguments: dict[str, list[str]] = dict(
        main=[f"--config={config_file}", *train_old],
        evaluate=[f"--workdir={old}"],
        predict=[f"--workdir={old}", "image.png"],
        init_from=[f"--config={config_file}", *init_from_old],
    )
    ended = processes.run("main" if module == "init_from" else module, *arguments[module])
    output = message(ended)
    assert str(old) in output
    if part == "config":
        flag = "--config.init_from" if module == "init_from" else "--workdir"
        assert f"{flag}={old} was made by another version of this program" in output
        assert output.count("\n") == 1
    else:
        assert "was made by an earlier version of alexnet_jax" in output
        assert "damaged" not in output
    after = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    if module == "main" and part == "checkpoints":
        assert after.pop(old / "status.json")
    assert after == before


def test_workdir_that_is_a_file(config_file: Path, tmp_path: Path) -> None:
    """Catches: a FileExistsError after the images have been prepared."""
    (tmp_path / "file").touch()
    output = message(
        processes.run("main", f"--config={config_file}", f"--workdir={tmp_path / 'file'}")
    )
    assert f"cannot write to --workdir={tmp_path / 'file'}" in output


@pytest.mark.parametrize("module", ["evaluate", "predict"])
def test_folder_without_a_run(tmp_path: Path, module: str) -> None:
    """Catches: a traceback, or a run made there."""
    output = message(
        processes.run(module, f"--workdir={tmp_path}", *["x.png"] * (module != "evaluate"))
    )
    assert str(tmp_path) in output
    assert "no config.json" in output
    assert not list(tmp_path.iterdir())


def test_a_second_process(config_file: Path, tmp_path: Path) -> None:
    """Catches: two processes writing into one run."""
    workdir = tmp_path / "run"
    command = [f"--config={config_file}", f"--workdir={workdir}", "--config.max_steps=1000000"]
    first = processes.start("main", *command)
    seconds: list[subprocess.CompletedProcess[str]] = []

    def second_ended() -> bool:
        if (workdir / ".lock").exists():
            seconds.append(processes.run("main", *command))
        return bool(seconds)

    first_ended = processes.signal_when(first, second_ended, signal.SIGKILL)
    assert first_ended.returncode == -signal.SIGKILL
    assert "another process is training in" in message(seconds[0])


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
