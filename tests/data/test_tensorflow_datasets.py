"""TensorFlow Datasets: ImageNet from its archives, CIFAR-10, and the errors they report."""

import io
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.image_sets import (
    data_config,
    random_pixels,
    read_all,
    smooth_pixels,
)
from PIL import Image

from alexnet_jax.data import images
from alexnet_jax.data.sources import hold_out, open_source
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare


def test_no_network_is_reported_at_once(tmp_path, monkeypatch):
    """Mutation: TFDS left to try ten times each of its files, minutes long."""

    def unreachable(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(InputError, match=r"cifar10 is not prepared in .* and cannot be downloaded"):
        open_source(data_config("cifar10", tmp_path))


def test_failed_download_is_an_input_error(tmp_path, monkeypatch):
    """Mutation: the exception of requests with its traceback."""

    def fail(*_, **__):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match=r"could not download or prepare cifar10.*reset by peer"):
        open_source(data_config("cifar10", tmp_path))


def test_imagenet_not_there(tmp_path):
    """Mutation: a slow or a silent failure, or one that does not say what to do."""
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        open_source(data_config("imagenet2012", tmp_path))
    assert time.monotonic() - start < 10
    message = str(caught.value)
    for part in (
        "imagenet2012 is not prepared in",
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
        "image-net.org",
        "DATA_DIR/downloads/manual",
        "python -m alexnet_jax.prepare --config=configs/alexnet.py --config.data.dir=DATA_DIR",
        "python -m alexnet_jax.main --config=configs/alexnet.py:sample",
    ):
        assert part in message


def test_imagenet_with_one_archive(tmp_path):
    """Mutation: TFDS prepares what is there, and the validation split is silently another."""
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_train.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"ILSVRC2012_img_val\.tar is not in"):
        open_source(data_config("imagenet2012", tmp_path))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("cifar10/x", r"BuilderConfig x not found with version 3\.0\.2"),
        ("imagenet_resized/8x9", r"closely match: 16x16:0\.1\.0 32x32:0\.1\.0 .* 8x8:0\.1\.0"),
        ("cifar10:9.9.9", r"cannot be loaded at version 9\.9\.9, only: 3\.0\.2\."),
        ("cifar10/a/b", r"of the following format: dataset_name\[/config_name\]\S+"),
    ],
)
def test_an_unknown_variant_or_version(tmp_path, name, end):
    """Catches: the names of similar variants announced and cut off; a sentence that announces
    none."""
    with pytest.raises(InputError, match=rf"cannot open --config\.data\.name={name}: .*{end}$"):
        open_source(data_config(name, tmp_path))


def jpeg(pixels, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet's archives with a few images: two of them CMYK, one a PNG, as in the real ones.

    Returns the data_dir and file name to (synset, pixels).
    """
    directory = tmp_path_factory.mktemp("tfds")
    manual = directory / "downloads" / "manual"
    manual.mkdir(parents=True)
    truth, train, number = {}, {}, 0
    special = {"n02105855": "n02105855_2933", "n01739381": "n01739381_1309"}
    for synset in ("n01440764", "n01739381", "n02077923", "n02105855", "n15075141"):
        files = {}
        for index in range(4):
            pixels, number = smooth_pixels(90, 70, seed=number), number + 1
            name = f"{synset}_{index}.JPEG"
            content = jpeg(pixels)
            if index == 0 and synset in special:
                name = special[synset] + ".JPEG"
                content = png(pixels) if synset == "n02105855" else jpeg(pixels, "CMYK")
            files[name] = content
            truth[name] = (synset, pixels)
        write_tar(tmp := directory / "synset.tar", files)
        train[f"{synset}.tar"] = tmp.read_bytes()
    write_tar(manual / "ILSVRC2012_img_train.tar", train)
    data = Path(tfds.core.tfds_path("datasets/imagenet2012"))
    synsets = (data / "validation_labels.txt").read_text().split()
    validation = {}
    for index in range(8):
        name = f"ILSVRC2012_val_{index + 1:08d}.JPEG"
        truth[name] = (synsets[index], smooth_pixels(64, 80, seed=100 + index))
        validation[name] = jpeg(truth[name][1])
    write_tar(manual / "ILSVRC2012_img_val.tar", validation)
    write_tar(manual / "ILSVRC2012_img_test.tar", {"ILSVRC2012_test_00000001.JPEG": jpeg(pixels)})
    return directory, truth


def test_imagenet_from_its_archives(imagenet, tmp_path):
    """Mutation: labels shifted, validation labels in another order, inverted CMYK, the unlabeled
    test split in the pack, images read in another order than their labels.
    """
    directory, truth = imagenet
    data = data_config(
        "imagenet2012", directory, image_size=72, crop=64, pack_dir=str(tmp_path / "pack")
    )
    source = open_source(data)
    assert source.counts == {"train": 20, "validation": 8}
    assert len(source.class_names) == 1000
    pack = prepare(data, progress=False)
    assert {name: split.count for name, split in pack.splits.items()} == source.counts
    for name, split in pack.splits.items():
        examples = read_all(source, name)
        records = split.read(np.arange(split.count))
        for example, record, label in zip(examples, records, split.labels, strict=True):
            synset, pixels = truth[example.name.split()[1]]
            assert pack.class_names[label] == synset
            expected = images.load(pixels, side=72, channels=3)
            stored = images.load(record, side=None, channels=3)
            # Two JPEG encodings and, for CMYK, a conversion lie between.
            assert np.abs(stored.astype(int) - expected).mean() < 4, example.name


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """A small prepared cifar10 in several files; returns the data_dir and the examples."""
    directory = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("cifar10", data_dir=directory)
    truth = {
        split: [
            {
                "id": f"{split}_{i}",
                "image": random_pixels(32, 32, 3, seed=count + i),
                "label": i % 7,
            }
            for i in range(count)
        ]
        for split, count in (("train", 60), ("test", 9))
    }
    # The real builder takes the names from the archive.
    builder.info.features["label"].names = [f"class{label}" for label in range(10)]
    Path(builder.data_path).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=20)
    writer.initialize_splits(list(truth))
    writer.add_examples(truth)
    writer.close_splits(list(truth))
    return directory, truth


def test_tfds_reads_by_index(cifar10):
    """Mutation: files interleaved, as TFDS does by default; a range that ends one early; images
    decoded where their bytes would do.
    """
    directory, truth = cifar10
    source = open_source(data_config("cifar10", directory))
    assert (source.counts, source.shape, source.channels) == (
        {"train": 60, "test": 9},
        (32, 32),
        3,
    )
    assert source.class_names[9] == "class9"
    for indices in (np.arange(60), np.array([0]), np.array([59]), np.array([3, 19, 20, 45])):
        examples = list(source.read("train", indices))
        assert [e.name for e in examples] == [f"train[{i}]" for i in indices]
        for index, example in zip(indices, examples, strict=True):
            assert isinstance(example.image, bytes)
            assert example.label == truth["train"][index]["label"]
            np.testing.assert_array_equal(
                images.load(example.image, side=None, channels=3), truth["train"][index]["image"]
            )


def test_tfds_to_pack(cifar10, tmp_path):
    """Mutation: held-out images read from the wrong places; small images scaled up."""
    directory, truth = cifar10
    data = data_config("cifar10", directory, pack_dir=str(tmp_path / "pack"), validation_share=0.2)
    pack = prepare(data, progress=False)
    assert (pack.side, pack.encoding) == (32, "raw")
    splits = hold_out(open_source(data), data)
    assert {n: s.count for n, s in pack.splits.items()} == dict(train=48, validation=12, test=9)
    for name, (origin, indices) in splits.items():
        expected = [truth[origin][index] for index in indices]
        assert pack.splits[name].labels.tolist() == [e["label"] for e in expected]
        records = pack.splits[name].read(np.arange(len(indices)))
        assert records == [e["image"].tobytes() for e in expected]
