"""Wrong usage, config or data: one clear message, status 2, no traceback."""

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
from data_fixtures import write_idx_set
from ml_collections import ConfigDict

from alexnet_jax import train
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate, load_net
from alexnet_jax.prepare import prepare
from alexnet_jax.status import read_status
from alexnet_jax.workdir import check_config, claim, write_config

SAMPLE = "--config=configs/alexnet.py:sample"


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small config, on images whose pack is made once."""
    folder = tmp_path_factory.mktemp("wrong_use")
    write_idx_set(folder / "data", train=120, test=20)
    return processes.write_config(folder, folder / "data")


@pytest.fixture
def config(config_file: Path) -> ConfigDict:
    """The same config in this process."""
    space: dict[str, Any] = {}
    exec(config_file.read_text(), space)
    return space["get_config"]()


def as_in_main(config: ConfigDict, workdir: Path) -> None:
    """Train in this process, by the calls that main makes."""
    train.check(config)
    with claim(workdir):
        check_config(workdir, config)
        pack = prepare(config.data, progress=False)
        train.train(train.complete(config, pack), pack, workdir)


def message(ended: subprocess.CompletedProcess[str], status: int = 2) -> str:
    """What a refused command said on stderr: its own lines."""
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\nalexnet_jax.") + ended.stderr.startswith("alexnet_jax.") == 1
    return ended.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--config is missing", "--help"]),
        ([SAMPLE, "--config.nonsense=1"], ["no field", "nonsense"]),
        ([SAMPLE, "--config.model.layers.conv9.features=1"], ["no field", "conv9"]),
        ([SAMPLE, "--config.model.nofield=1"], ["has no field model.nofield"]),
        ([SAMPLE, "--config.model.lrn.sise=1"], ["no field model.lrn.sise; did you mean size?"]),
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
    said = message(processes.run("main", *arguments, f"--workdir={tmp_path / 'run'}"))
    for part in expected:
        assert part in said


def test_no_imagenet_here(tmp_path: Path) -> None:
    """Catches: a message without the way to get ImageNet, or to try without it."""
    (tmp_path / "empty").mkdir()
    said = message(
        processes.run(
            "main",
            "--config=configs/alexnet.py",
            f"--config.data.dir={tmp_path / 'empty'}",
            f"--workdir={tmp_path / 'run'}",
        )
    )
    assert "ILSVRC2012_img_train.tar" in said
    assert "python -m alexnet_jax.prepare --config=configs/alexnet.py" in said
    assert "python -m alexnet_jax.main --config=configs/alexnet.py:sample" in said


def test_workdir_of_another_config(config_file: Path, config: ConfigDict, tmp_path: Path) -> None:
    """Catches: going on with another batch size; the field, old or new value left unsaid."""
    config.model.classes = 5
    write_config(tmp_path, config, 0)
    other = [f"--config={config_file}", "--config.batch_size=4", f"--workdir={tmp_path}"]
    said = message(processes.run("main", *other))
    assert "batch_size was 8, is 4" in said
    assert str(tmp_path) in said


def test_workdir_that_is_a_file(config_file: Path, tmp_path: Path) -> None:
    """Catches: a FileExistsError after the images have been prepared."""
    (tmp_path / "file").touch()
    said = message(
        processes.run("main", f"--config={config_file}", f"--workdir={tmp_path / 'file'}")
    )
    assert f"cannot write to --workdir={tmp_path / 'file'}" in said


@pytest.mark.parametrize("module", ["evaluate", "predict"])
def test_folder_without_a_run(tmp_path: Path, module: str) -> None:
    """Catches: a traceback, or a run made there."""
    said = message(
        processes.run(module, f"--workdir={tmp_path}", *["x.png"] * (module != "evaluate"))
    )
    assert str(tmp_path) in said
    assert "no config.json" in said
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
    said = message(processes.run("main", f"--config={config_file}", *wild), status=3)
    assert "not finite at step" in said
    assert "--config.learning_rate" in said
    net = load_net(tmp_path)
    assert f"the checkpoint of step {net.step} is kept" in said
    ended = read_status(tmp_path)
    assert ended is not None
    assert (ended.status, ended.step) == ("diverged", net.step)
    (result,) = evaluate([net])[1]
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
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("schedule.factor", -1.0),
        ("schedule.patience", 0),
        ("model.columns", 0),
        ("model.columns", 3),
        ("model.classes", 7),
        ("model.dropout", 1.0),
        ("model.dropout", -0.1),
        ("model.lrn.size", 0),
        ("model.pool.stride", 0),
        ("model.layers.conv1.features", 0),
        ("model.layers.conv1.stride", 0),
        ("model.layers.conv1.sees", "neither"),
        ("model.layers.conv1.after", ("relu", "bool")),
        ("data.crop", 0),
        ("data.crop", 40),
        ("data.image_size", 0),
        ("data.validation_share", 1.5),
    ],
)
def test_values_that_make_no_sense(
    config: ConfigDict, tmp_path: Path, field: str, value: object
) -> None:
    """Catches: a value that is not checked before it divides by zero or trains wrongly; an
    InputError that does not name the field."""
    config.update_from_flattened_dict({field: value})
    config.max_steps = min(config.max_steps, 2)
    with pytest.raises(InputError) as caught:
        as_in_main(config, tmp_path)
    named = field.replace("model.layers.", "").replace("parallel.", "").split(".")[-1]
    assert named in str(caught.value)


def test_a_batch_larger_than_the_training_set(config: ConfigDict, tmp_path: Path) -> None:
    """Catches: an epoch counted as one batch; a batch that cannot be filled from two epochs."""
    config.data.validation_share = 0.9
    config.batch_size, config.max_steps, config.log_every = 30, 2, 1
    as_in_main(config, tmp_path)
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
    subprocess.run(command, cwd=processes.ROOT, env=environment, check=True, stdout=subprocess.PIPE)
