"""Small runs of the samples of each family, killed and started again, end to the last bit alike."""

import signal
from pathlib import Path

import jax
import pytest
from helpers import processes
from helpers.image_sets import write_idx_set
from helpers.in_process import train_here
from helpers.runs import last_recorded_step, newest_state

from alexnet_jax import command

pytestmark = pytest.mark.usefixtures("quick_to_compile")

CONFIG = '''
from alexnet_jax.models.ops import Conv, Dense
from configs import FAMILY


def shrink(config):
    """Leave eight channels a layer."""
    for op in config.model.ops.values():
        if isinstance(op, Conv | Dense) and op.features:
            op.features = 8


def shrink_resnet(config):
    """Leave two blocks, and average the parameters."""
    config.model.width, config.model.stage_sizes = 4, (1, 1)
    config.optimizer.ema_decay = 0.9


def shrink_cifar(config):
    """Leave four channels a layer, and a stage that ends after eight steps."""
    shrink(config)
    config.model.ops["local3"].features = config.model.ops["local4"].features = 4
    config.data.part_images, config.data.stages = 12, ((1, 24), (3, 54))
    config.schedule.drop_epochs = (3,)


def get_config():
    """Return the sample's config with a smaller model, for images in a folder."""
    config = FAMILY.get_config("VARIANT")
    config.batch_size = 8
    config.max_steps = 12
    config.checkpoint_every = 5
    config.log_every = 1
    config.data.name = "idx"
    config.data.dir = "DIRECTORY"
    SHRINK(config)
    return config
'''


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("zfnet", "sample"),
        ("vgg", "sample,A,jitter"),
        ("resnet", "sample,cifar20"),
        ("cifar", "sample"),
    ],
)
def test_a_killed_run_ends_alike(family: str, variant: str, tmp_path: Path) -> None:
    """Catches: draws of scales, crops or masks that start anew; filters that are limited once more
    or once less; running statistics or averaged parameters that start anew; a stage of the training
    set that begins with the resumed run; a state that is not restored to the last bit."""
    write_idx_set(tmp_path / "data", train=60, test=10)
    path = tmp_path / "small.py"
    text = CONFIG.replace("FAMILY", family).replace("VARIANT", variant)
    shrink = {"resnet": "shrink_resnet", "cifar": "shrink_cifar"}.get(family, "shrink")
    text = text.replace("SHRINK", shrink)
    path.write_text(text.replace("DIRECTORY", str(tmp_path / "data")))
    flags = (f"--config={path}", f"--workdir={tmp_path / 'killed'}")
    process = processes.start("main", *flags, devices=4)
    killed = processes.signal_when(
        process, lambda: last_recorded_step(tmp_path / "killed") >= 7, signal.SIGKILL
    )
    assert killed.returncode == -signal.SIGKILL
    config = command.load_config(str(path))
    for name in ("killed", "whole"):
        assert train_here(config, tmp_path / name) == 0
    assert processes.records(tmp_path / "killed") == processes.records(tmp_path / "whole")
    (step, state), (again, same) = (newest_state(tmp_path / name) for name in ("killed", "whole"))
    assert step == again == 12
    if family == "resnet":
        assert {*state[0]} == {"params", "batch_stats", "ema_params"}
    equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), state, same)
    assert all(jax.tree.leaves(equal)), equal
