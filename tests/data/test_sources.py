"""Sources: folders, IDX files, TensorFlow Datasets, and the errors they report."""

import gzip
import io
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import ROOT
from helpers.image_sets import (
    data_config,
    random_pixels,
    smooth_pixels,
    write_folder,
    write_idx,
    write_idx_set,
)
from PIL import Image

import alexnet_jax
from alexnet_jax.config import validated
from alexnet_jax.data import images
from alexnet_jax.data.names import readable_name
from alexnet_jax.data.sources import hold_out, open_source
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import prepare
from configs.alexnet import get_config

FASHION_MNIST = Path(alexnet_jax.__file__).parents[1] / "data" / "fashion-mnist"
FASHION_MNIST_FILES = [
    f"{split}-{kind}-ubyte.gz"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def read_all(source, split):
    return list(source.read(split, np.arange(source.counts[split])))


# Folders


def test_folder_classes_are_sorted_as_text(tmp_path):
    """Mutation: classes sorted as numbers or left in the file system's order."""
    write_folder(tmp_path, {"2": 1, "10": 2, "1": 3})
    source = open_source(data_config("folder", tmp_path))
    assert source.class_names == ("1", "10", "2")
    examples = read_all(source, "train")
    assert [(e.label, e.name) for e in examples] == [
        (0, "1/0.png"),
        (0, "1/1.png"),
        (0, "1/2.png"),
        (1, "10/0.png"),
        (1, "10/1.png"),
        (2, "2/0.png"),
    ]
    assert all(e.image == tmp_path / e.name for e in examples)


def test_folder_with_splits_keeps_the_training_labels(tmp_path):
    """Mutation: labels numbered in each split by itself; an empty class folder dropped."""
    write_folder(tmp_path / "train", {"a": 1, "b": 0, "c": 2})
    write_folder(tmp_path / "validation", {"b": 1, "c": 1})
    write_folder(tmp_path / "test", {"a": 0, "c": 1})
    source = open_source(data_config("folder", tmp_path))
    assert source.class_names == ("a", "b", "c")
    assert source.counts == {"train": 3, "validation": 2, "test": 1}
    assert [e.label for e in read_all(source, "validation")] == [1, 2]
    assert [e.label for e in read_all(source, "test")] == [2]
    splits = hold_out(source, data_config("folder", tmp_path))
    assert {name: len(indices) for name, (_, indices) in splits.items()} == source.counts


def test_folder_takes_nested_and_ignores_hidden_and_stray_files(tmp_path):
    """Mutation: .DS_Store counted as an image; images below a class folder missed."""
    write_folder(tmp_path, {"a": 1, "a/more": 1, "b": 1, ".git": 1})
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    source = open_source(data_config("folder", tmp_path))
    assert source.class_names == ("a", "b")
    names = [e.name for e in read_all(source, "train")]
    assert names == ["a/0.png", "a/more/0.png", "b/0.png"]


def test_a_class_may_be_called_train(tmp_path):
    """Mutation: any folder called train taken for a split."""
    write_folder(tmp_path, {"car": 1, "train": 1})
    assert open_source(data_config("folder", tmp_path)).class_names == ("car", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/a": 1, "train/c": 1, "validation/b": 1}, r"validation has the class folders b"),
        ({"train/a": 1, "train/b": 1, "more/a": 1}, r"also more; rename"),
        (
            {"train/a": 1, "train/b": 1, "validation/a": 0},
            r"validation has class folders without any file",
        ),
        ({"a": 0}, r"without any file"),
        ({}, r"no class folders"),
    ],
)
def test_folder_mistakes(tmp_path, folders, message):
    """Mutation: an unknown class numbered on, or val/ silently unused."""
    write_folder(tmp_path, folders)
    with pytest.raises(InputError, match=message):
        open_source(data_config("folder", tmp_path))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("folder", "images are$"),
        ("idx", "images are$"),
        ("cifar10_binary", r"images are: cifar-10-batches-bin, unpacked from .* of https://"),
    ],
)
@pytest.mark.parametrize("directory", ["", "/nowhere/at/all"])
def test_missing_directory(name, end, directory):
    """Catches: the current folder read for an empty dir; a traceback for a missing one; no word on
    where CIFAR-10 is to be had."""
    with pytest.raises(InputError, match=rf"config\.data\.dir=.* is not a folder.*{end}"):
        open_source(data_config(name, directory))


def test_digest_follows_the_listing(tmp_path):
    """Mutation: a digest that does not see a file replaced between interruption and resuming."""
    write_folder(tmp_path, {"a": 2, "b": 2})
    digests = {open_source(data_config("folder", tmp_path)).digest for _ in range(2)}
    (tmp_path / "a" / "0.png").write_bytes(b"other")
    digests.add(open_source(data_config("folder", tmp_path)).digest)
    (tmp_path / "a" / "0.png").unlink()
    digests.add(open_source(data_config("folder", tmp_path)).digest)
    assert len(digests) == 3


# Holding out


def test_hold_out_is_a_partition_by_seed(tmp_path):
    """Mutation: overlapping splits, a test split where only validation is missing, no seed."""
    write_folder(tmp_path, {"a": 30, "b": 70}, side=2)
    source = open_source(data_config("folder", tmp_path))
    shares = dict(validation_share=0.2, test_share=0.1)
    splits = hold_out(source, data_config("folder", tmp_path, **shares))
    assert [(n, s, len(i)) for n, (s, i) in splits.items()] == [
        ("train", "train", 70),
        ("validation", "train", 20),
        ("test", "train", 10),
    ]
    everything = np.concatenate([indices for _, indices in splits.values()])
    assert sorted(everything) == list(range(100))
    assert all((np.diff(indices) > 0).all() for _, indices in splits.values())
    other = hold_out(source, data_config("folder", tmp_path, split_seed=1, **shares))
    assert (other["validation"][1] != splits["validation"][1]).any()
    # Not the end of the list: that would be one class.
    assert (splits["validation"][1] < 30).any()


def test_hold_out_where_a_test_split_exists(tmp_path):
    """Mutation: test images held out of the training split although the source has some."""
    write_idx_set(tmp_path, train=50, test=10)
    source = open_source(data_config("idx", tmp_path))
    splits = hold_out(source, data_config("idx", tmp_path))
    assert {n: (s, len(i)) for n, (s, i) in splits.items()} == {
        "train": ("train", 45),
        "validation": ("train", 5),
        "test": ("test", 10),
    }
    none = hold_out(source, data_config("idx", tmp_path, validation_share=0.0))
    assert "validation" not in none
    with pytest.raises(InputError, match="none left"):
        hold_out(source, data_config("idx", tmp_path, validation_share=0.999))


@pytest.mark.parametrize("field", ["validation_share", "test_share"])
@pytest.mark.parametrize("share", [1.0, -0.1])
def test_shares_out_of_range(field, share):
    """Mutation: a share of all images, or of fewer than none, that is held out."""
    config = get_config("sample")
    setattr(config.data, field, share)
    with pytest.raises(InputError, match=rf"^data\.{field}={share}; expected in \[0, 1\)"):
        validated(config)


# IDX


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_pixels_and_labels(tmp_path, zipped):
    """Mutation: the header's bytes read as pixels, labels off by one, .gz not unpacked."""
    sets = write_idx_set(tmp_path)
    if zipped:
        for path in list(tmp_path.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    source = open_source(data_config("idx", tmp_path))
    assert (source.shape, source.channels) == ((28, 28), 1)
    assert source.class_names == ("0", "1", "2", "3", "4")
    for split, (pixels, labels) in sets.items():
        examples = list(source.read(split, np.array([1, 7])))
        assert [e.label for e in examples] == labels[[1, 7]].tolist()
        for example, expected in zip(examples, pixels[[1, 7]], strict=True):
            np.testing.assert_array_equal(example.image, expected[:, :, None])


def test_idx_in_color_with_dots_and_names(tmp_path):
    """Mutation: four dimensions refused; classes.txt ignored."""
    write_idx(tmp_path / "train-images.idx4-ubyte", random_pixels(4, 5, 6, 3))
    write_idx(tmp_path / "train-labels.idx1-ubyte", np.array([0, 1, 1, 0]))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = open_source(data_config("idx", tmp_path))
    assert (source.shape, source.channels, source.class_names) == ((5, 6), 3, ("cat", "dog"))
    assert source.counts == {"train": 4}


def break_idx(directory, how):
    images_path = directory / "train-images-idx3-ubyte"
    if how == "truncated":
        images_path.write_bytes(images_path.read_bytes()[:-1])
    elif how == "header":
        images_path.write_bytes(images_path.read_bytes()[:6])
    elif how == "text":
        images_path.write_text("not IDX at all")
    elif how == "missing":
        images_path.unlink()
    elif how == "labels":
        write_idx(directory / "train-labels-idx1-ubyte", np.zeros(49))
    elif how == "shapes":
        write_idx(directory / "t10k-images-idx3-ubyte", random_pixels(10, 27, 28))
    elif how == "names":
        (directory / "classes.txt").write_text("one\ntwo\n")
    elif how == "repeated":
        (directory / "classes.txt").write_text("a\nb\nc\nd\na\n")
    elif how == "latin-1":
        (directory / "classes.txt").write_bytes("a\nb\nc\nd\ncaf\u00e9\n".encode("latin-1"))
    elif how == "gzip":
        images_path.with_name(images_path.name + ".gz").write_bytes(b"\x1f\x8bnonsense")
        images_path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"its header announces 39216"),
        ("header", r"is not an IDX file of bytes in 3 or 4 dimensions"),
        ("text", r"is not an IDX file"),
        ("missing", r"lacks the IDX file of the train images"),
        ("labels", r"has 50 images and .* has 49 labels"),
        ("shapes", r"one shape is expected"),
        ("names", r"classes\.txt has 2 different names in 2 lines; expected 5 or more"),
        ("repeated", r"classes\.txt has 4 different names in 5 lines; expected 5 or more"),
        ("latin-1", r"^\S+classes\.txt is not UTF-8 text"),
        ("gzip", r"cannot read"),
    ],
)
def test_idx_mistakes(tmp_path, how, message):
    """Mutation: a check removed, so that NumPy's error or wrong labels come out instead."""
    write_idx_set(tmp_path)
    break_idx(tmp_path, how)
    with pytest.raises(InputError, match=message):
        open_source(data_config("idx", tmp_path))


def test_sample_is_intact():
    """Mutation: other counts, names out of order, a file damaged by a text conversion."""
    source = open_source(data_config("sample"))
    assert source.counts == {"train": 10_000, "test": 2_000}
    assert source.class_names[0] == "T-shirt/top"
    assert source.class_names[9] == "Ankle boot"
    assert len(source.class_names) == 10
    assert source.digest == "cb4e2182de0a6eb7"
    first = next(source.read("train", np.arange(1)))
    assert first.label == 9
    assert isinstance(first.image, np.ndarray)
    assert first.image.shape == (28, 28, 1)


@pytest.mark.parametrize(
    ("split", "labels"),
    [("train", [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]), ("test", [9, 2, 1, 1, 6, 1, 4, 6, 5, 7])],
)
def test_sample_images_match_their_labels(split, labels):
    """Mutation: images and labels cut at different places, or another split's.

    `labels` are those at the beginning of Fashion-MNIST. The nearest class mean is right for two
    images in three, and for one in ten if labels and images do not belong together.
    """
    source = open_source(data_config("sample"))
    records = list(source.read(split, np.arange(2000)))
    assert [record.label for record in records[:10]] == labels
    pixels = (
        np.stack([np.asarray(record.image) for record in records]).reshape(len(records), -1) / 255
    )
    classes = np.array([record.label for record in records])
    means = np.stack([pixels[classes == c].mean(0) for c in range(10)])
    nearest = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == classes).mean() > 0.6


FASHION_MNIST = ROOT / "data" / "fashion-mnist"


def test_sample_is_the_beginning_of_fashion_mnist():
    """Mutation: an image or a label of the sample altered."""
    if not FASHION_MNIST.is_dir():
        pytest.skip(
            "put the four files *-ubyte.gz of github.com/zalandoresearch/fashion-mnist into "
            "data/fashion-mnist to compare the sample with them"
        )
    full = open_source(data_config("idx", FASHION_MNIST))
    sample = open_source(data_config("sample"))
    for split in ("train", "test"):
        index = np.arange(0, sample.counts[split], 97)
        for ours, theirs in zip(sample.read(split, index), full.read(split, index), strict=True):
            assert ours.label == theirs.label
            np.testing.assert_array_equal(ours.image, theirs.image)


# TensorFlow Datasets


def test_unknown_name_suggests():
    """Mutation: TFDS's list of a thousand names as the message."""
    with pytest.raises(InputError, match=r"name=fashion_mnis .*did you mean .*fashion_mnist") as e:
        open_source(data_config("fashion_mnis"))
    assert len(str(e.value)) < 300


def test_other_kinds_of_sets_are_refused(tmp_path):
    """Mutation: a text set opened, to fail later."""
    with pytest.raises(InputError, match="not a set of images with one label each"):
        open_source(data_config("imdb_reviews", tmp_path))


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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("n01440764", "tench, Tinca tinca (n01440764)"),
        ("n15075141", "toilet tissue, toilet paper, bathroom tissue (n15075141)"),
        ("n00000000", "n00000000"),
        ("Ankle boot", "Ankle boot"),
    ],
)
def test_readable_names(name, expected):
    """Mutation: names of the wrong line; the synset, which is the unique part, dropped."""
    assert readable_name(name) == expected


def test_readable_names_cover_imagenet():
    """Mutation: a line lost in the table."""
    labels = Path(tfds.core.tfds_path("datasets/imagenet2012/labels.txt")).read_text().split()
    assert len(labels) == 1000
    assert all(readable_name(label) != label for label in labels)
