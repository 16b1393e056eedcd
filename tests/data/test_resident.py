"""Images on the devices: the crops and inputs that the host would make, and when they are there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.image_sets import data_config, smooth_pixels, write_folder, write_idx_set
from PIL import Image

from alexnet_jax import fields, sharding
from alexnet_jax.config import Config, ParallelConfig, validated
from alexnet_jax.data.batch import Batch, ResidentCrops, consecutive_examples
from alexnet_jax.data.epochs import make_epochs
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.data.resident import (
    MEMORY_SHARE,
    check_resident,
    explain_host_images,
    load_pixels,
    make_draw_fn,
)
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import mean_of, normalize
from alexnet_jax.models.ops import Dense
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.prepare import prepare

STEPS = 7  # of eight images: more than an epoch


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[DataConfig, Pack]]:
    """Return config.data and pack of gray and of color images, stored as pixels."""
    folder = tmp_path_factory.mktemp("resident")
    write_idx_set(folder / "gray", train=50, test=11)
    write_folder(folder / "color", {"a": 30, "b": 31})
    gray = data_config("idx", folder / "gray", pack_dir=str(folder / "gray_pack"), image_size=28)
    color = data_config("folder", folder / "color", pack_dir=str(folder / "pack"), image_size=32)
    return {
        "gray": (gray, prepare(gray, progress=False)),
        "color": (color, prepare(color, progress=False)),
    }


def run_config(data: DataConfig, channels: int) -> Config:
    model = SequentialConfig(channels=channels, ops={"fc8": Dense(0)})
    return Config(batch_size=8, data=data, model=model)


def place(pack: Pack, split: str = "train") -> jax.Array:
    """Return the images of a split on four devices."""
    mesh = sharding.make_mesh(ParallelConfig(data=4))
    return load_pixels(pack, split, sharding.replicated(mesh))


def assert_same_inputs(config: Config, pack: Pack, host: Batch, device: Batch) -> None:
    """Assert that two batches are equal, and so are the model's inputs, to the last bit."""
    assert isinstance(host.image, np.ndarray)
    assert isinstance(device.image, ResidentCrops)
    jax.tree.map(np.testing.assert_array_equal, host.replace(image=0), device.replace(image=0))
    mean = jnp.asarray(mean_of(pack.mean_image, config.data, config.model.channels))
    to_input = jax.jit(lambda batch: normalize(batch, mean, config.data))
    expected, found = np.asarray(to_input(host)), np.asarray(to_input(device))
    assert expected.dtype == found.dtype == np.float32
    assert expected.tobytes() == found.tobytes()


@pytest.mark.parametrize(
    ("kind", "channels", "changes"),
    [
        ("gray", 1, dict(lighting="none")),
        ("gray", 3, dict(lighting="source2012", lighting_divisor=1.5)),
        ("color", 3, dict(lighting="paper", mean="center", crop_positions="five", crop_chunk=3)),
        ("color", 3, dict(padding=4, crop=32, mean="channel", std=(50.0, 60.0, 70.0))),
        ("color", 3, dict(padding=4, crop=30, channel_order="bgr")),
        ("color", 3, dict(crop_positions="center", flip=False, mean="none")),
    ],
)
def test_training_inputs_are_those_of_the_host(
    packs: dict[str, tuple[DataConfig, Pack]], kind: str, channels: int, changes: dict[str, Any]
) -> None:
    """Several steps at a time, from any step on, with the rows of one process.

    Windows and padding are computed by the same functions on the host, which test_pipeline and
    test_inputs compare with plain loops.

    Catches: crops that are not mirrored, draws of another step where several are drawn at once,
    images in the order of the pack, labels of other images, gray pixels in one channel only.
    """
    data, pack = packs[kind]
    config = run_config(fields.replace(data, changes), channels)
    examples, rows = consecutive_examples(8, pack.splits["train"].count), np.array([0, 1, 5, 7])
    draw = make_draw_fn(pack, config, examples, place(pack), rows)
    of_host = train_batches(pack, config, examples, first_step=2, last_step=STEPS, rows=rows)
    of_devices = [
        batches.step(number)
        for steps in (range(2, 3), range(3, 6), range(6, STEPS))
        for batches in [draw(steps)]
        for number in range(len(steps))
    ]
    for host, device in zip(of_host, of_devices, strict=True):
        assert_same_inputs(config, pack, host, device)


def test_masks_of_short_batches(packs: dict[str, tuple[DataConfig, Pack]]) -> None:
    """Parts of 12 images in batches of eight, of 30 images and then of 40.

    Catches: a mask that is lost where steps are drawn together, or that of the first step for all;
    examples of the first stage in the second one.
    """
    data, pack = packs["gray"]
    stages = {"shuffle": False, "part_images": 12, "stages": ((1, 30), (2, 40))}
    config, rows = run_config(fields.replace(data, stages), 1), np.arange(8)
    examples = make_epochs(config, pack.splits["train"].count).examples
    batches = make_draw_fn(pack, config, examples, place(pack), rows)(range(STEPS))
    of_host = train_batches(pack, config, examples, first_step=0, last_step=STEPS)
    for number, host in enumerate(of_host):
        assert_same_inputs(config, pack, host, batches.step(number))
    assert np.asarray(batches.mask).sum(1).tolist() == [8, 4, 8, 4, 6, 8, 4]


@pytest.mark.parametrize("views", ["center", "ten", "grid", "dense"])
@pytest.mark.parametrize("kind", ["gray", "color"])
def test_views_are_those_of_the_host(
    packs: dict[str, tuple[DataConfig, Pack]], kind: str, views: str
) -> None:
    """Catches: a view in another one's place, crops of the crop's size for whole images, the
    padding of the last batch, a split's images taken for those of another one."""
    data, pack = packs[kind]
    config = run_config(data, 3)
    options: dict[str, Any] = dict(views=views, rows=np.array([1, 2, 6]))
    of_host = evaluation_batches(pack, "test", config, **options)
    of_devices = evaluation_batches(pack, "test", config, **options, pixels=place(pack, "test"))
    for host, device in zip(of_host, of_devices, strict=True):
        jax.tree.map(np.testing.assert_array_equal, host.labels(), device.labels())
        for view in {0, host.offset.shape[1] // 2, host.offset.shape[1] - 1}:
            assert_same_inputs(config, pack, host.view(view), device.view(view))


def test_scaled_views_are_cut_on_the_host(packs: dict[str, tuple[DataConfig, Pack]]) -> None:
    """Catches: windows that are not scaled to the size of the crop."""
    data, pack = packs["color"]
    config, pixels = run_config(data, 3), place(pack, "test")
    batch = next(evaluation_batches(pack, "test", config, scale=40, pixels=pixels))
    expected = next(evaluation_batches(pack, "test", config, scale=40))
    jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_every_device_holds_all_images(packs: dict[str, tuple[DataConfig, Pack]]) -> None:
    """Catches: images that are split over the devices, of which each needs any image."""
    _, pack = packs["gray"]
    pixels, split = place(pack), pack.splits["train"]
    expected = np.frombuffer(b"".join(split.read(np.arange(split.count))), np.uint8)
    assert len(pixels.addressable_shards) == 4
    for shard in pixels.addressable_shards:
        np.testing.assert_array_equal(np.ravel(shard.data), expected)


def make_device(platform: str, memory: int | None) -> Any:
    """Return what is asked of a device."""
    stats = None if memory is None else {"bytes_limit": memory}
    return SimpleNamespace(platform=platform, device_kind="X1", memory_stats=lambda: stats)


def test_where_the_crops_are_cut(packs: dict[str, tuple[DataConfig, Pack]]) -> None:
    """Catches: images on the devices that do not fit, or not where they do; the validation images
    not counted; a choice by the user that changes nothing."""
    data, pack = packs["gray"]
    splits = ["train", "validation"]
    size = sum(pack.splits[name].count for name in splits) * 28 * 28
    fits = int(size / MEMORY_SHARE)

    def explain(resident: str, device: Any, **changes: Any) -> str | None:
        changed = fields.replace(data, {"resident": resident, **changes})
        return explain_host_images(changed, pack, splits, device)

    assert explain("auto", make_device("gpu", fits)) is None
    assert explain("auto", make_device("gpu", None)) is None
    assert explain("auto", make_device("gpu", fits - 2)) == "they take 0.00 GB, and X1 has 0.00"
    assert explain("auto", make_device("cpu", None)) == "the devices are CPUs"
    assert explain("auto", make_device("gpu", fits), scale_jitter=(28, 30)) is not None
    assert explain("auto", make_device("gpu", fits), crop_area=(0.1, 1.0)) is not None
    assert explain("off", make_device("gpu", fits)) == "data.resident=off"
    assert explain("on", make_device("cpu", None)) is None
    assert explain("on", make_device("gpu", size)) is None
    with pytest.raises(InputError, match=r"data\.resident=on, but they take .*resident=auto$"):
        explain("on", make_device("gpu", size - 1))


def test_images_of_different_shapes_stay_on_the_host() -> None:
    """Catches: images in one array that has room for squares only."""
    split = SimpleNamespace(count=2, shapes=np.array([[28, 28], [28, 29]]))
    pack: Any = SimpleNamespace(
        splits={"train": split}, encoding="raw", side=28, channels=1, directory="here"
    )
    data = data_config("folder", resize="shorter_side")
    device = make_device("gpu", None)
    assert explain_host_images(data, pack, ["train"], device) == "their shapes differ"
    with pytest.raises(InputError, match=r"resident=on is for square images, .* of other shapes"):
        check_resident(pack, fields.replace(data, {"resident": "on"}))


def test_jpegs_stay_on_the_host(tmp_path: Path) -> None:
    """Catches: compressed records taken for pixels, in a traceback in place of one message."""
    for index in range(30):
        (tmp_path / "images" / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "images" / f"class{index % 2}" / f"{index}.png"
        Image.fromarray(smooth_pixels(70, 70, seed=index)).save(path)
    changes = dict(image_size=70, crop=60, pack_dir=str(tmp_path / "pack"))
    data = data_config("folder", tmp_path / "images", **changes)
    pack = prepare(data, progress=False)
    assert explain_host_images(data, pack, ["train"], make_device("gpu", None)) == "they are JPEGs"
    check_resident(pack, data)
    with pytest.raises(InputError, match=r"data\.resident=on .*has JPEGs of 70 pixels; expected"):
        check_resident(pack, fields.replace(data, {"resident": "on"}))


@pytest.mark.parametrize(
    "changes",
    [{"scale_jitter": (24, 32), "mean": "none"}, {"crop_area": (0.1, 1.0), "mean": "none"}],
)
def test_scaled_crops_are_refused(changes: dict[str, Any]) -> None:
    """Catches: crops of another size than the model's, or the host's without a word."""
    data = fields.replace(data_config("idx"), {"image_size": 32, **changes})
    validated(run_config(data, 3))
    with pytest.raises(InputError, match=r"scales images, .* data\.resident=on; expected"):
        validated(run_config(fields.replace(data, {"resident": "on"}), 3))


def test_damage_is_found_at_the_start(tmp_path: Path) -> None:
    """Catches: damaged records placed on the devices, which nobody would look at again."""
    write_idx_set(tmp_path / "idx", train=20, test=5)
    data = data_config("idx", tmp_path / "idx", pack_dir=str(tmp_path / "pack"), image_size=28)
    pack = prepare(data, progress=False)
    path = next((tmp_path / "pack").glob("train-*.records"))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"image 0 of the train split, .* is not as it was wr"):
        place(pack)
