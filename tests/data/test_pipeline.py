"""Batches for training: pixels against the source files, the stream, and closing early."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import tensorflow as tf
from helpers.batches import (
    assert_equal_batches,
    batch_config,
    cut_crop,
    join_batches,
    read_stored,
)
from helpers.image_sets import data_config, random_pixels, write_idx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.data import images
from alexnet_jax.data.augmentation import Augmentation, Draws
from alexnet_jax.data.batch import consecutive_examples
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.data.sources import hold_out, open_source
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare


def batches(pack, data, last, *, first=0, batch_size=8, channels=3, **options) -> list[Any]:
    """Return the training batches of steps first … last - 1; Any, for no part of them is None."""
    config = batch_config(data, batch_size=batch_size, channels=channels)
    examples = consecutive_examples(batch_size, pack.splits["train"].count)
    return list(train_batches(pack, config, examples, first_step=first, last_step=last, **options))


def test_every_pixel_and_label_comes_from_its_file(numbered):
    """Mutation: folders sorted as numbers; labels of the unshuffled order; rows and columns of the
    offset exchanged; mirrored before it is cropped; upside down.
    """
    data, pack, files = numbered
    assert pack.class_names == ("1", "10", "2")
    source = open_source(data)
    names = [e.name for e in source.read("train", hold_out(source, data)["train"][1])]
    classes = {"1": 0, "10": 1, "2": 2}
    seen = []
    for batch in batches(pack, data, 15):
        assert all(isinstance(array, np.ndarray) for array in jax.tree.leaves(batch))
        assert batch.image.dtype == np.uint8
        assert batch.image.shape == (8, 24, 24, 3)
        assert batch.mask is None
        for image, label, offset, flip in zip(
            batch.image, batch.label, batch.offset, batch.flip, strict=True
        ):
            crops = {n: cut_crop(files[n], offset, flip, 24) for n in names}
            (found,) = [n for n, crop in crops.items() if np.array_equal(crop, image)]
            assert classes[found.split("/")[0]] == label, found
            seen.append(found)
    count = len(names)
    assert pack.splits["train"].count == count == 29
    for epoch in range(15 * 8 // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == sorted(names)


def test_jpegs_are_decoded_as_pillow_does(photos):
    """Mutation: the fast transform, BGR, an offset off by one, a flip forgotten."""
    data, pack = photos
    split = pack.splits["train"]
    stored = [
        images.load(record, side=None, channels=3) for record in split.read(np.arange(split.count))
    ]
    for batch in batches(pack, data, 3, batch_size=16):
        for i in range(16):
            crops = [cut_crop(p, batch.offset[i], batch.flip[i], 64) for p in stored]
            distances = [np.abs(crop.astype(int) - batch.image[i]).max() for crop in crops]
            assert min(distances) == 0
            assert split.labels[int(np.argmin(distances))] == batch.label[i]
    # And they are the files' pixels, but for JPEG's loss.
    source = open_source(data)
    for example, pixels in zip(
        source.read("train", hold_out(source, data)["train"][1]), stored, strict=True
    ):
        original = images.load(example.image, side=80, channels=3).astype(int)
        assert np.abs(original - pixels).mean() < 2


@pytest.mark.parametrize("which", ["numbered", "photos"])
@pytest.mark.parametrize("process_count", [2, 4])
def test_stream_is_the_same_for_any_number_of_processes(request, which, process_count):
    """Mutation: draws by local row; a process's share taken by stride; epochs counted locally."""
    data, pack, *_ = request.getfixturevalue(which)
    all_batches = batches(pack, data, 9)
    shares = np.arange(8).reshape(process_count, -1)
    parts = [batches(pack, data, 9, rows=share) for share in shares]
    for step, expected in enumerate(all_batches):
        assert_equal_batches(join_batches([part[step] for part in parts]), expected)


@pytest.mark.parametrize("which", ["numbered", "photos"])
def test_workers_do_not_change_the_stream(request, monkeypatch, which):
    """Mutation: deterministic=False. Some images are made to take much longer than others."""
    data, pack, *_ = request.getfixturevalue(which)
    one = batches(pack, data, 12, workers=1)
    split, decode = pack.splits["train"], tf.io.decode_and_crop_jpeg
    read = split.read

    def uneven_read(index):
        time.sleep(0.02 * (index[0] % 3))
        return read(index)

    def wait(record):
        time.sleep(0.01 * (len(record) % 3))
        return np.int32(0)

    def uneven_decode(record, window, **settings):
        with tf.control_dependencies([tf.numpy_function(wait, [record], tf.int32)]):
            return decode(record, window, **settings)

    monkeypatch.setattr(split, "read", uneven_read)
    monkeypatch.setattr(tf.io, "decode_and_crop_jpeg", uneven_decode)
    many = batches(pack, data, 12, workers=5)
    for left, right in zip(one, many, strict=True):
        assert_equal_batches(left, right)


@given(first=st.integers(0, 11), batch_size=st.sampled_from([1, 7, 29, 64]))
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_start_is_the_tail_of_the_stream(numbered, first, batch_size):
    """Mutation: an epoch that begins with the iterator; a permutation kept from the start."""
    data, pack, _ = numbered
    all_batches = batches(pack, data, 12, batch_size=batch_size)
    tail = batches(pack, data, 12, first=first, batch_size=batch_size)
    assert len(tail) == 12 - first
    for left, right in zip(tail, all_batches[first:], strict=True):
        assert_equal_batches(left, right)


def test_examples_are_numbered_and_far_steps_start_at_once(numbered):
    """Mutation: the example's number local to the process; a start that skips through the data."""
    data, pack, _ = numbered
    step = 40_000_000
    begin = time.monotonic()
    (batch,) = batches(pack, data, step + 1, first=step, rows=np.arange(4, 8))
    assert time.monotonic() - begin < 5
    assert batch.example.dtype == np.uint32
    np.testing.assert_array_equal(batch.example, step * 8 + 4 + np.arange(4))


@pytest.mark.parametrize("which", ["numbered", "photos"])
def test_draws_are_made_once_for_a_step(request, monkeypatch, which):
    """Mutation: drawing a second time for what the batch tells of its crops, or for the images;
    the draws of another step, or of steps that nobody asked for. Here every call of `draw` returns
    other offsets and flips, so that crops and batch agree only where they share a call.
    """
    data, pack, *_ = request.getfixturevalue(which)
    draw: Callable[..., Draws] = Augmentation.draw
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    lock = threading.Lock()

    def differing(self: Augmentation, epochs: np.ndarray, positions: np.ndarray) -> Draws:
        with lock:
            asked.append((epochs, positions))
            rng = np.random.default_rng(len(asked))
        drawn = draw(self, epochs, positions)
        offset = rng.integers(0, pack.side - data.crop + 1, drawn.offset.shape, np.int32)
        shift, gain = (
            rng.normal(size=x.shape).astype(np.float32) for x in (drawn.shift, drawn.gain)
        )
        flip = rng.random(len(offset)) < 0.5
        made.append(dataclasses.replace(drawn, offset=offset, flip=flip, shift=shift, gain=gain))
        return made[-1]

    made: list[Draws] = []
    monkeypatch.setattr(Augmentation, "draw", differing)
    split, first, last = pack.splits["train"], 3, 10
    found = batches(pack, data, last, first=first, workers=3)
    numbers = [e * split.count + p for e, p in asked]
    expected = np.arange(first * 8, last * 8).reshape(-1, 8)
    np.testing.assert_array_equal(sorted(map(list, numbers)), expected)

    stored = [read_stored(pack, "train", index) for index in range(split.count)]
    for batch in found:
        (draws,) = [d for d in made if np.array_equal(d.shift, batch.shift)]
        for name in ("offset", "flip", "gain"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(draws, name))
        np.testing.assert_array_equal(batch.label, split.labels[draws.index])
        for image, index, offset, flip in zip(
            batch.image, draws.index, batch.offset, batch.flip, strict=True
        ):
            expected = cut_crop(stored[index], offset, flip, data.crop)
            np.testing.assert_array_equal(image, expected)


def test_no_steps(numbered):
    """Mutation: a run that is finished reads a batch."""
    data, pack, _ = numbered
    assert batches(pack, data, 3, first=3) == []


def test_shift_is_lighting(numbered):
    """Mutation: shifts in [0, 1] units, or for other rows than their images."""
    data, pack, _ = numbered
    (batch,) = batches(pack, data, 1, batch_size=2000)
    assert batch.shift.shape == (2000, 3)
    assert batch.shift.dtype == np.float32
    expected = np.sqrt(np.diag(pack.covariance)) * data.lighting_std
    np.testing.assert_allclose(batch.shift.std(axis=0), expected, rtol=0.1)
    off = fields.replace(data, {"lighting": "none"})
    (plain,) = batches(pack, off, 1)
    assert not plain.shift.any()
    assert plain.shift.shape == (8, 3)


def test_without_crop_and_flip(numbered):
    """Mutation: crop_positions or flip ignored."""
    data, pack, _ = numbered
    data = fields.replace(data, {"crop_positions": "center", "flip": False})
    (batch,) = batches(pack, data, 1)
    assert (batch.offset == 4).all()
    assert not batch.flip.any()


# Channels and mistakes


def test_gray_images_for_a_model_of_three_channels(gray):
    """Mutation: zeros in the other channels; three different shifts."""
    data, pack = gray
    data = fields.replace(data, {"lighting": "source2012"})
    (one,) = batches(pack, data, 1, channels=1)
    (three,) = batches(pack, data, 1, channels=3)
    assert one.image.shape == (8, 24, 24, 1)
    np.testing.assert_array_equal(three.image, np.repeat(one.image, 3, axis=-1))
    assert (three.shift == three.shift[:, :1]).all()
    assert three.shift.any()


def test_gray_jpegs_for_a_model_of_three_channels(tmp_path):
    """Mutation: a gray JPEG decoded to one channel where three are expected."""
    changes = dict(validation_share=0.0, image_size=80, crop=70)
    data = data_config("idx", tmp_path, pack_dir=str(tmp_path / "pack"), **changes)
    write_gray_idx(tmp_path)
    pack = prepare(data, progress=False)
    assert (pack.encoding, pack.channels) == ("jpeg", 1)
    (one,) = batches(pack, data, 1, channels=1)
    (three,) = batches(pack, data, 1, channels=3)
    np.testing.assert_array_equal(three.image, np.repeat(one.image, 3, axis=-1))


def write_gray_idx(directory):
    write_idx(directory / "train-images-idx3-ubyte", random_pixels(6, 80, 80))
    write_idx(directory / "train-labels-idx1-ubyte", np.arange(6))


def test_mistakes_are_reported_before_the_first_batch(numbered, gray):
    """Mutation: a shape error out of tf.data, minutes later."""
    data, pack, _ = numbered
    with pytest.raises(InputError, match=r"3 channels, the model 1; set --config\.model\.chann"):
        start_training(pack, batch_config(data, channels=1))
    with pytest.raises(InputError, match=r"1 channels, the model 2; set"):
        start_training(gray[1], batch_config(gray[0], channels=2))
    large = batch_config(fields.replace(data, {"crop": 33}))
    message = r"images smaller than the crop: .* 32 × 32 pixels, --config\.data\.crop=33; set it"
    with pytest.raises(InputError, match=message):
        start_training(pack, large)
    with pytest.raises(InputError, match=message):
        evaluation_batches(pack, "test", large)
    for views in ("five", "dense_grid"):
        message = rf"views '{views}' are unknown; .* one of center, ten, grid, dense, squares$"
        with pytest.raises(InputError, match=message):
            evaluation_batches(pack, "test", batch_config(data), views=views)
    with pytest.raises(InputError, match=r"no dev split; it has train, validation, test"):
        evaluation_batches(pack, "dev", batch_config(data))


def start_training(pack: Pack, config: Config, last_step: int = 1, workers: int | None = None):
    """Return the iterator over training batches, before the first one is asked for."""
    examples = consecutive_examples(config.batch_size, pack.splits["train"].count)
    return train_batches(pack, config, examples, first_step=0, last_step=last_step, workers=workers)


def test_a_crop_as_large_as_the_images(numbered):
    """Mutation: a margin of 0 that draws nothing."""
    data, pack, _ = numbered
    data = fields.replace(data, {"crop": 32})
    (batch,) = batches(pack, data, 1)
    assert not batch.offset.any()


# Closing


@pytest.mark.parametrize("which", ["numbered", "photos"])
def test_closing_early_leaves_nothing_behind(request, which):
    """Mutation: threads of tf.data or of this program that live on; a close that waits."""
    data, pack, *_ = request.getfixturevalue(which)

    def use(count, how):
        iterator = start_training(pack, batch_config(data), workers=3, last_step=10**6)
        for _ in range(count):
            next(iterator)
        if how == "close":
            iterator.close()
        elif how == "throw":
            with pytest.raises(KeyboardInterrupt):
                iterator.throw(KeyboardInterrupt)

    use(2, "close")
    threads, ours = len(os.listdir("/proc/self/task")), threading.active_count()
    start = time.monotonic()
    for count in (0, 1, 5):
        for how in ("close", "throw", "forget"):
            use(count, how)
    assert time.monotonic() - start < 20
    deadline = time.monotonic() + 5  # the system takes a moment to reap them
    while len(os.listdir("/proc/self/task")) > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/task")) <= threads
    assert threading.active_count() == ours
