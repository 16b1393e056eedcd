"""Numbers about a net: by hand, by brute force, and beside evaluation."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from data_fixtures import write_folder, write_idx_set
from ml_collections import ConfigDict

from alexnet_jax import network
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net, evaluate
from alexnet_jax.inputs import normalise
from alexnet_jax.prepare import prepare
from configs.alexnet import LRN_POOL, conv, dense, get_config
from experiments import looking
from experiments.looking import Look


def untrained(name: str, directory: Path, classes: int, channels: int, **data: object) -> Net:
    """A small net with the parameters of its seed, as after a step, and its data's mean image."""
    config = get_config("sample")
    config.batch_size = 8
    config.data.update(dict(name=name, dir=str(directory), crop=24) | data)
    config.model.update(channels=channels, classes=classes)
    config.model.layers = ConfigDict(
        dict(
            conv1=conv(4, 3, stride=3, after=LRN_POOL),
            fc6=dense(8, bias=0.0),
            fc8=dense(0, bias=0.0, after=()),
        )
    )
    pack = prepare(config.data, progress=False)
    return Net(config, 1, network.init_params(config), pack.mean_image, pack.class_names)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, np.ndarray, np.ndarray]:
    """A net of grey images, and the pixels and labels of its 21 test images."""
    directory = tmp_path_factory.mktemp("grey")
    sets = write_idx_set(directory, train=60, test=21)
    return untrained("idx", directory, 5, 1), *sets["test"]


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, list[np.ndarray]]:
    """A net that wants blue first, with a deviation for each channel, and its test pixels."""
    directory = tmp_path_factory.mktemp("colour")
    write_folder(directory / "train", dict(a=4, b=4, c=4), side=28)
    pixels = write_folder(directory / "test", dict(a=2, b=2, c=1), side=28, seed=7)
    net = untrained("folder", directory, 3, 3, channel_order="bgr", std=(1.0, 2.0, 4.0))
    return net, [pixels[name] for name in sorted(pixels)]


def kernel_of(*columns: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """(columns, 2, 2, 3, maps): kernels of one colour everywhere, a column from each list."""
    flat = np.array(columns, np.float64).transpose(0, 2, 1)[:, None, None]
    return np.broadcast_to(flat, (len(columns), 2, 2, *flat.shape[3:]))


def test_colourfulness_by_hand() -> None:
    """Catches another axis for grey, a root or a third left out, and a measure that depends on a
    kernel's scale or sign. Pure red is a third grey: (1, 0, 0) · (1, 1, 1) / √3 = 1 / √3."""
    kernel = kernel_of([(1, 1, 1), (-5, -5, -5), (1, -1, 0), (0.1, 0.1, -0.2), (9, 0, 0)])
    np.testing.assert_allclose(
        looking.colourfulness(kernel), [[0, 0, 1, 1, 2 / 3]], rtol=0, atol=1e-12
    )


def test_a_faint_kernel_does_not_make_a_column_colourful() -> None:
    """Catches the plain mean over kernels, 1/2 here, and columns that are mixed up."""
    kernel = kernel_of([(1, 1, 1), (1e-3, -1e-3, 0)], [(1, 0, -1), (0, 1, -1)])
    np.testing.assert_allclose(looking.of_columns(kernel), [0, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(looking.colourfulness(kernel)[0], [0, 1], rtol=0, atol=1e-12)


def test_the_difference_beside_random_deals() -> None:
    """Catches a one-sided test (1 of 20 deals), deals that keep the columns, and the wrong tail.

    Three kernels in each column make 20 deals; the one there is and its mirror are the extremes.
    """
    grey, red = [(1.0, 1, 1), (2, 2, 2), (3, 3, 3)], [(1.0, -1, 0), (2, 0, -2), (0, 3, -3)]
    difference, share = looking.difference_by_chance(kernel_of(grey, red))
    np.testing.assert_allclose([difference, share], [1, 2 / 20])
    same = kernel_of(grey, grey)
    np.testing.assert_allclose(looking.difference_by_chance(same), [0, 1], atol=1e-12)


def test_the_difference_of_many_kernels() -> None:
    """Catches a share that is small for noise, or not small where every kernel differs, or
    another one every time."""
    noise = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 16))
    by_chance = looking.difference_by_chance(noise)
    assert by_chance[1] > 0.1
    assert looking.difference_by_chance(noise) == by_chance
    noise[0] = noise[0].mean(2, keepdims=True)
    difference, share = looking.difference_by_chance(noise)
    assert difference == pytest.approx(looking.of_columns(noise)[1])
    assert share == 1 / (looking.DEALS + 1)


def test_neighbours_by_brute_force() -> None:
    """Catches another distance, the farthest first, and ties in any order."""
    random = np.random.default_rng(0)
    query, among = random.normal(size=(3, 5)), random.normal(size=(30, 5)).astype(np.float32)
    among[20] = among[10]
    query[1] = among[10]
    rows, distances = looking.neighbours(query, among, 4)
    for q in range(3):
        every = [float(np.sqrt(sum((query[q] - one) ** 2))) for one in among]
        assert rows[q].tolist() == sorted(range(30), key=lambda r: (every[r], r))[:4]
        np.testing.assert_allclose(distances[q], np.sort(every)[:4], atol=1e-12)
    assert rows[1, :2].tolist() == [10, 20]
    assert looking.neighbours(query, among[:2], 4)[0].shape == (3, 2)


def test_confusion_by_hand() -> None:
    """Catches rows and columns that are swapped, and right answers among the mix-ups."""
    labels, predictions = np.array([0, 0, 0, 2, 2, 1]), np.array([0, 1, 1, 2, 0, 1])
    counts = looking.confusion(labels, predictions, 4)
    expected = [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert counts.tolist() == expected
    assert looking.mix_ups(counts, 3) == [(0, 1, 2), (2, 0, 1)]
    assert looking.mix_ups(counts, 1) == [(0, 1, 2)]


def seen(labels: list[int], predictions: list[int], sure: list[float]) -> Look:
    """A look at images: the prediction's probability, and the other classes share the rest."""
    rest = (1 - np.array(sure)) / 9
    probabilities = np.repeat(rest[:, None], 10, axis=1)
    probabilities[np.arange(len(sure)), predictions] = sure
    index = np.arange(len(sure))
    return Look("test", index, np.array(labels), np.log(probabilities), None)


def test_the_worst_are_wrong_and_sure() -> None:
    """Catches right answers among the mistakes, and the least sure first."""
    look = seen([0, 1, 2, 3], [0, 2, 1, 4], [0.99, 0.5, 0.9, 0.7])
    assert looking.worst(look, 2).tolist() == [2, 3]
    assert looking.worst(look, 9).tolist() == [2, 3, 1]


def test_the_choice_is_of_both_kinds_and_many_classes() -> None:
    """Catches mistakes left out, a class again before the others had their turn, another choice
    every time, and one that follows how sure the net is."""
    labels = [0] * 40 + [1, 2, 3] + [0] * 5 + [1] * 5
    predictions = [*labels[:43], *([9] * 10)]
    sure = np.linspace(0.2, 0.9, len(labels)).tolist()
    look = seen(labels, predictions, sure)
    rows = looking.choose(look, right=4, wrong=3)
    assert look.right[rows].tolist() == [True] * 4 + [False] * 3
    assert sorted(look.labels[rows[:4]]) == [0, 1, 2, 3]
    assert {*look.labels[rows[4:6]]} == {0, 1}
    assert looking.choose(seen(labels, predictions, sure[::-1]), 4, 3).tolist() == rows.tolist()


def test_a_look_agrees_with_evaluation(grey: tuple[Net, np.ndarray, np.ndarray]) -> None:
    """Catches images of a padded batch left in or out, logits for probabilities, and a second
    idea of what the centre view is."""
    net, _, labels = grey
    look = looking.look(net)
    split, (result,) = evaluate([net])
    assert (look.split, len(look.index)) == (split, result["count"]) == ("test", 21)
    assert look.labels.tolist() == labels.tolist()
    assert (~look.right).mean() == result["top1_error"]
    np.testing.assert_allclose(look.probabilities.sum(1), 1, rtol=1e-5)
    own = look.log_probabilities[np.arange(21), labels]
    np.testing.assert_allclose(-own.mean(), result["loss"], rtol=1e-5)


def test_some_images_in_the_order_asked_for(grey: tuple[Net, np.ndarray, np.ndarray]) -> None:
    """Catches images sorted, or the first ones of the split whatever was asked for; pictures of
    others than the probabilities; features that are not what the classifier sees."""
    net, pixels, labels = grey
    index = [17, 3, 20, 3, 0, 9, 11, 12, 1]  # more than a batch
    some, whole = looking.look(net, index=index, features=True), looking.look(net)
    assert some.labels.tolist() == labels[index].tolist()
    np.testing.assert_allclose(
        some.log_probabilities, whole.at(np.array(index)).log_probabilities, rtol=1e-5
    )
    assert some.features is not None
    kernel, bias = (np.asarray(net.params["fc8"][name]) for name in ("kernel", "bias"))
    logits = some.features @ kernel.reshape(-1, 5) + bias
    np.testing.assert_allclose(
        logits - logits.max(1, keepdims=True),
        some.log_probabilities - some.log_probabilities.max(1, keepdims=True),
        rtol=1e-4,
        atol=1e-5,  # float32 sums in another order
    )
    found = looking.pictures(net, "test", index)
    np.testing.assert_array_equal(found[..., 0], pixels[index, 2:26, 2:26])


def test_pictures_in_true_colours(colour: tuple[Net, list[np.ndarray]]) -> None:
    """Catches what the net's channel order does to a picture, and a crop that is not the centre;
    kernels in the net's order or its units."""
    net, pixels = colour
    found = looking.pictures(net, "test", [4, 0])
    for picture, place in zip(found, (4, 0), strict=True):
        np.testing.assert_array_equal(picture, pixels[place][2:26, 2:26])
    # A pixel's effect on the first layer: by the kernel shown, and by the inputs' own code.
    mean, kernel = jnp.zeros((1, 1, 3)), np.asarray(net.params["conv1"]["kernel"])
    corner = jnp.asarray(found[:1, :3, :3])
    batch = {"image": corner, "offset": jnp.zeros((1, 2), int), "flip": jnp.zeros(1, bool)}
    data = net.config.copy_and_resolve_references().data
    data.update(crop=3, mean="none", scale=1.0)
    through = (np.asarray(normalise(batch, mean, data))[0] * kernel[0, ..., 1]).sum()
    shown = (found[0, :3, :3] * looking.conv1(net)[0, ..., 1]).sum()
    np.testing.assert_allclose(shown, through, rtol=1e-4)


def test_activations_end_in_the_probabilities(colour: tuple[Net, list[np.ndarray]]) -> None:
    """Catches a mean that is not under the crop, another order of channels, and layers that are
    shown after pooling or twice."""
    net, _ = colour
    look = looking.look(net, "test")
    found = looking.activations(net, looking.pictures(net, "test", [3])[0])
    shares = np.exp(found["fc8"] - found["fc8"].max())
    np.testing.assert_allclose(shares / shares.sum(), look.probabilities[3], rtol=1e-4)
    layers = looking.layers(found)
    assert {name: layer.shape for name, layer in layers.items()} == {
        "conv1": (2, 8, 8, 2),
        "fc6": (2, 4),
    }
    assert min(layer.min() for layer in layers.values()) >= 0


def test_where_colour_cannot_be_shown(
    grey: tuple[Net, np.ndarray, np.ndarray], colour: tuple[Net, list[np.ndarray]]
) -> None:
    """Catches a number for grey images, also of a net with three channels, whose kernels keep the
    colours of their random beginning; and a difference of one column."""
    text = "The images are grey: whether a column specialises in colour cannot be shown."
    assert looking.specialisation(grey[0]) == looking.Colour((), None, None, text)
    net, _ = colour
    grey_mean = np.repeat(net.mean_image[..., :1], 3, axis=-1)
    trained = Net(net.config, 1, net.params, grey_mean, net.class_names)
    assert looking.specialisation(trained).text == text
    imported = Net(net.config, 0, net.params, np.zeros_like(grey_mean), net.class_names)
    assert looking.specialisation(imported).columns != ()

    found = looking.specialisation(net)
    assert len(found.columns) == 2
    assert found.difference == pytest.approx(abs(found.columns[0] - found.columns[1]))
    assert f"{found.columns[0]:.2f} and {found.columns[1]:.2f}" in found.text
    config = net.config.copy_and_resolve_references()
    config.model.columns = 1
    one = Net(config, 1, network.init_params(config), net.mean_image, net.class_names)
    assert looking.specialisation(one).share is None
    assert len(looking.specialisation(one).columns) == 1


def test_what_is_not_there(grey: tuple[Net, np.ndarray, np.ndarray]) -> None:
    """Catches a negative place that counts from the end, an IndexError, and features of nothing."""
    net, *_ = grey
    for place in (-1, 21):
        with pytest.raises(InputError, match=f"image {place} of test .* has 21 there, 0 to 20"):
            looking.look(net, index=[3, place])
    config = net.config.copy_and_resolve_references()
    config.model.layers = ConfigDict(dict(fc8=dense(0, bias=0.0, after=())))
    linear = Net(config, 1, network.init_params(config), net.mean_image, net.class_names)
    with pytest.raises(InputError, match="no hidden layer"):
        looking.look(linear, features=True)
    with pytest.raises(InputError, match="no convolution"):
        looking.conv1(linear)
