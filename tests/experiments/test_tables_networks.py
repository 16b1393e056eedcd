"""Which network of which paper a config has, for all words of all configs."""

from collections.abc import Iterator

import pytest
from helpers.config_files import data_variants, load, module_of

from alexnet_jax import fields
from alexnet_jax.config import Config, config_from_json, config_to_json
from alexnet_jax.errors import InputError
from experiments.tables.networks import NETWORKS, ZFNETS, find_network, load_preset, paper_of
from experiments.tables.published import PAPERS

RESNETS = (18, 34, 50, 101, 152)
CIFAR = (20, 32, 44, 56, 110)

# The network of each word for it, by file; "" without one.
EXPECTED: dict[str, dict[str, str | None]] = {
    "alexnet.py": {"": "AlexNet"},
    "source2012.py": {"": "AlexNet"},
    "bvlc_alexnet.py": {"": "AlexNet"},
    "one_weird_trick.py": {"": None},
    "zfnet.py": {"": "ZFNet", "b": "ZFNet (b)", "krizhevsky": "AlexNet replica"},
    "vgg.py": {
        "": "VGG D, S = 256",
        "A_LRN": "VGG A-LRN, S = 256",
        **{letter: f"VGG {letter}, S = 256" for letter in "ABCDE"},
    },
    "googlenet.py": {"": "GoogLeNet"},
    "resnet.py": {
        "": "ResNet-50 B",
        **{str(n): f"ResNet-{n} B" for n in RESNETS},
        **{f"plain{n}": f"plain-{n}" for n in (18, 34)},
        **{f"cifar{n}": f"ResNet-{n} (CIFAR)" for n in (*CIFAR, 1202)},
        **{f"cifar_plain{n}": f"plain-{n} (CIFAR)" for n in CIFAR},
    },
    "cifar.py": dict.fromkeys(("", "80sec", "18pct", "13pct", "11pct")),
}
SMALL_IMAGES = {"sample", "fashion_mnist", "cifar10"}
# Words that leave the layers as they are. Those that change them make a network of no paper,
# unless `changed_network` says otherwise.
HARMLESS = {"no_lighting", "no_crops", "normal_init", "from_A", "2010"}


def word_lists(file: str, first: str) -> Iterator[list[str]]:
    """Yield the words of a file that may follow a first one: of the data, and one change."""
    module = module_of(file)
    changes = {**getattr(module, "CHANGES", {})}
    if hasattr(module, "variants") and not changes:
        changes = {**module.variants.ABLATIONS}
    networks = getattr(module, "NETWORKS", ())
    data = ("", *getattr(module, "DATA", ())) if first in ("", *networks) else ("",)
    for chosen in data:
        for change in ("", *changes, *getattr(module, "PRETRAINING", ())):
            yield [word for word in (first, chosen, change) if word]


def expected_network(file: str, words: list[str]) -> str | None:
    """Return the network that the words name."""
    known = EXPECTED[file]
    network = next((known[word] for word in words if word in known), known[""])
    if file == "resnet.py" and not {*words} & known.keys() and {*words} & SMALL_IMAGES:
        network = "ResNet-20 (CIFAR)"
    for word in words:
        if word not in known and word not in HARMLESS and word not in module_of(file).DATA:
            network = changed_network(file, word, network)
    return network


def changed_network(file: str, word: str, network: str | None) -> str | None:
    """Return the network after a change."""
    if file == "vgg.py":
        scale = {"s384": "384", "jitter": "[256; 512]"}.get(word, "256")
        return network.replace("256", scale) if network and word in VGG_WORDS else None
    if file == "zfnet.py" and word in ("no_fc6", "no_fc7") and network == "AlexNet replica":
        return "AlexNet replica without layer 7"  # the same layers are left
    if file == "zfnet.py" and f"{network}, fc {word[2:]}" in ZFNETS:
        return f"{network}, fc {word[2:]}"
    if file == "source2012.py":
        pretrained = ("pretrain2009", "finetune2012")
        return "AlexNet*" if word in pretrained else None
    if file == "resnet.py" and network and word.startswith("shortcut"):
        kind = word[-1].upper()
        if network.endswith("(CIFAR)"):
            return network if kind == "A" else None
        return f"{network[:-1]}{kind}"
    if file == "resnet.py" and word == "torchvision" and network in BASIC:
        return network  # it differs in the padding of the first pooling only
    return None


VGG_WORDS = {"s384", "jitter", "caffe", "torchvision"}
BASIC = ("ResNet-18 B", "ResNet-34 B", "plain-18", "plain-34")


@pytest.mark.parametrize("file", [*EXPECTED])
def test_networks_of_all_words(file: str) -> None:
    """Catches: a config in the row of another network, an ablation in the row of the whole model,
    a small model that counts as the paper's, and a config whose network is not recognized."""
    checked = 0
    firsts = [first for named, first in data_variants() if named == file]
    for first in dict.fromkeys(firsts):
        for words in word_lists(file, first):
            try:
                config = load(file, ",".join(words))
            except InputError:  # words that do not go together
                continue
            network = find_network(config)
            assert (network.name if network else None) == expected_network(file, words), words
            is_full = find_network(config, small=False) is not None
            assert is_full == (network is not None and not is_small(file, words)), words
            checked += 1
    assert checked >= len(firsts)


def is_small(file: str, words: list[str]) -> bool:
    """Return whether the words make the model smaller than the paper's."""
    if file == "resnet.py":
        named = [word for word in words if word in EXPECTED[file]]
        if any(word.startswith("cifar") for word in named):
            return False  # networks for small images
        if not named:
            return bool({*words} & SMALL_IMAGES - {"cifar10"})
    return bool({*words} & SMALL_IMAGES)


def test_every_row_has_a_network_and_a_config() -> None:
    """Catches: a row whose network no config has, and presets that are another network."""
    named = {network.name for network in NETWORKS}
    assert len(named) == len(NETWORKS)
    for paper in PAPERS:
        for table in paper.tables:
            assert {name for row in table.rows for name, _ in row.networks} <= named
    for network in NETWORKS:
        if network.name != "AlexNet*" and not network.name.endswith(("384", "]")):
            for preset in (*network.full, *network.small):
                assert find_network(load_preset(preset)) == network
        assert network.paper in {paper.name for paper in PAPERS}


def test_errors_of_zfnets_changes() -> None:
    """Catches: numbers of table 3 that differ from those beside the words of the config, and
    words without a row."""
    zfnet = next(paper for paper in PAPERS if paper.name == "zfnet")
    table = next(table for table in zfnet.tables if table.number == 3)
    described = " ".join((module_of("zfnet.py").__doc__ or "").split())
    for row in table.rows:
        ((network, _),) = row.networks
        assert row.model == network in ZFNETS
        _, top1, top5 = row.paper
        assert f"{top1} % and {top5} %" in described
    assert len(table.rows) == len(ZFNETS)


def test_what_does_not_change_the_network() -> None:
    """Catches: gray or five-class models that are not recognized, and a config that has gone
    through JSON."""
    config = fields.replace(load_preset("zfnet:"), {"model.num_classes": 5, "model.channels": 1})
    assert (
        find_network(config_from_json(config_to_json(config))) == find_network(config) is not None
    )
    pretrained = fields.replace(load_preset("alexnet:"), {"init_from": "runs/a"})
    network = find_network(pretrained)
    assert network is not None
    assert network.name == "AlexNet*"


@pytest.mark.parametrize(
    ("preset", "paper"),
    [
        ("alexnet:one_column", "alexnet"),
        ("zfnet:b,fc2048", "zfnet"),
        ("zfnet:krizhevsky,no_conv2", "zfnet"),
        ("vgg:B,conv5x5", "vgg"),
        ("googlenet:torchvision", "googlenet"),
        ("resnet:50,v1.5", "resnet"),
        ("vgg:D", "vgg"),
    ],
)
def test_papers_of_other_models(preset: str, paper: str) -> None:
    """Catches: a model of a family beside the tables of another paper."""
    assert paper_of(load_preset(preset)) == paper


def test_scales_of_vgg() -> None:
    """Catches: training at a scale that table 3 does not have in the row of another one."""

    def changed(**changes: object) -> Config:
        return fields.replace(load_preset("vgg:E"), changes)

    assert find_network(changed(**{"data.image_size": 320})) is None
    assert find_network(changed(**{"data.scale_jitter": (256, 384)})) is None
    network = find_network(changed(**{"data.scale_jitter": (256, 512)}))
    assert network is not None
    assert network.name == "VGG E, S = [256; 512]"
