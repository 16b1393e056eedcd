"""Published errors: tables of the papers, as numbers of the networks in `networks.NETWORKS`."""

from dataclasses import dataclass

TOP1, TOP5 = "top1_error", "top5_error"


@dataclass(frozen=True)
class Column:
    """A column of errors.

    Attributes:
        heading: as printed.
        split: of the table's images.
        error: "top1_error" or "top5_error".
    """

    heading: str
    split: str
    error: str


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        model: name in the first column.
        paper: errors in percent, one for each column; None where the paper has none.
        networks: pairs of a network's name and the number of such models that are averaged; () for
            a method that has no config here.
        views: way of testing, one of `evaluate.VIEW_NAMES`, at the scale that the config has.
        details: entries of the table's further columns of text.
    """

    model: str
    paper: tuple[float | None, ...]
    networks: tuple[tuple[str, int], ...] = ()
    views: str = "ten"
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        number: in the paper.
        caption: what the errors are of, and how they were measured.
        images: name of the data set.
        split: split of it on which models are evaluated.
        count: number of images in that split.
        classes: number of classes.
        columns: the columns of errors.
        rows: the rows, in the paper's order.
        details: headings of further columns of text.
    """

    number: int
    caption: str
    images: str
    split: str
    count: int
    classes: int
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """A paper with its tables.

    Attributes:
        name: word of --paper.
        citation: authors and year.
        tables: in the paper's order.
        note: what the tables leave open, for the reader.
        states_views: whether the paper states how it tested; if not, the views of rows are assumed.
    """

    name: str
    citation: str
    tables: tuple[Table, ...]
    note: str
    states_views: bool = True

    @property
    def averages(self) -> bool:
        """Return whether rows average several models."""
        counts = (sum(n for _, n in row.networks) for table in self.tables for row in table.rows)
        return max(counts) > 1


def _on_2012(
    number: int,
    caption: str,
    columns: tuple[Column, ...],
    rows: tuple[Row, ...],
    details: tuple[str, ...] = (),
) -> Table:
    """Return a table of ILSVRC-2012, whose validation images have labels."""
    return Table(number, caption, "ILSVRC-2012", "validation", 50_000, 1000, columns, rows, details)


_VAL_TOP1 = Column("Top-1 (val)", "validation", TOP1)
_VAL_TOP5 = Column("Top-5 (val)", "validation", TOP5)
_TEST_TOP5 = Column("Top-5 (test)", "test", TOP5)

ALEXNET = Paper(
    name="alexnet",
    citation="Krizhevsky, Sutskever and Hinton (2012)",
    tables=(
        Table(
            number=1,
            caption="Errors on the test images of ILSVRC-2010, in %.",
            images="ILSVRC-2010",
            split="test",
            count=150_000,
            classes=1000,
            columns=(Column("Top-1", "test", TOP1), Column("Top-5", "test", TOP5)),
            rows=(
                Row("*Sparse coding*", (47.1, 28.2)),
                Row("*SIFT + FVs*", (45.7, 25.7)),
                Row("CNN", (37.5, 17.0), (("AlexNet", 1),)),
                # 6, in a footnote
                Row("CNN, center view", (39.0, 18.3), (("AlexNet", 1),), "center"),
            ),
        ),
        _on_2012(
            2,
            "Errors on the validation and test images of ILSVRC-2012, in %.",
            (_VAL_TOP1, _VAL_TOP5, _TEST_TOP5),
            (
                Row("*SIFT + FVs*", (None, None, 26.2)),
                Row("1 CNN", (40.7, 18.2, None), (("AlexNet", 1),)),
                Row("5 CNNs", (38.1, 16.4, 16.4), (("AlexNet", 5),)),
                Row("1 CNN*", (39.0, 16.6, None), (("AlexNet*", 1),)),
                Row("7 CNNs*", (36.7, 15.4, 15.3), (("AlexNet", 5), ("AlexNet*", 2))),
            ),
        ),
    ),
    note=(
        "Italics: the best results of others. Ten views unless stated otherwise. Asterisk: "
        "pretrained on other images, in the paper on ImageNet of Fall 2011; 7 CNNs*: five models "
        "without pretraining and two with."
    ),
)


def _changed(network: str, train: float, top1: float, top5: float) -> Row:
    """Return a row of ZFNet's table 3."""
    return Row(network, (train, top1, top5), ((network, 1),))


ZFNET = Paper(
    name="zfnet",
    citation="Zeiler and Fergus (2013)",
    tables=(
        _on_2012(
            2,
            "Errors on the validation and test images of ILSVRC-2012, in %.",
            (_VAL_TOP1, _VAL_TOP5, _TEST_TOP5),
            (
                Row("Krizhevsky et al., 1 model", (40.7, 18.2, None), (("AlexNet", 1),)),
                Row("Krizhevsky et al., 5 models", (38.1, 16.4, 16.4), (("AlexNet", 5),)),
                Row("Krizhevsky et al.*, 1 model", (39.0, 16.6, None), (("AlexNet*", 1),)),
                Row(
                    "Krizhevsky et al.*, 7 models",
                    (36.7, 15.4, 15.3),
                    (("AlexNet", 5), ("AlexNet*", 2)),
                ),
                Row("replica of Krizhevsky et al.", (40.5, 18.1, None), (("AlexNet replica", 1),)),
                Row("figure 3, 1 model", (38.4, 16.5, None), (("ZFNet", 1),)),
                Row("(a) figure 3, 5 models", (36.7, 15.3, 15.3), (("ZFNet", 5),)),
                Row("(b) 512, 1024, 512 channels", (37.5, 16.0, 16.1), (("ZFNet (b)", 1),)),
                Row("(a) and (b), 6 models", (36.0, 14.7, 14.8), (("ZFNet", 5), ("ZFNet (b)", 1))),
            ),
        ),
        _on_2012(
            3,
            "Errors of changed architectures on the training and validation images of "
            "ILSVRC-2012, in %.",
            (Column("Top-1 (train)", "train", TOP1), _VAL_TOP1, _VAL_TOP5),
            (
                _changed("AlexNet replica", 35.1, 40.5, 18.1),
                _changed("AlexNet replica without layers 3, 4", 41.8, 45.4, 22.1),
                _changed("AlexNet replica without layer 7", 27.4, 40.0, 18.4),
                _changed("AlexNet replica without layers 6, 7", 27.4, 44.8, 22.4),
                _changed("AlexNet replica without layers 3, 4, 6, 7", 71.1, 71.3, 50.1),
                _changed("AlexNet replica, fc 2048", 40.3, 41.7, 18.8),
                _changed("AlexNet replica, fc 8192", 26.8, 40.0, 18.1),
                _changed("ZFNet", 33.1, 38.4, 16.5),
                _changed("ZFNet, fc 2048", 38.2, 40.2, 17.6),
                _changed("ZFNet, fc 8192", 22.0, 38.8, 17.0),
                _changed("ZFNet (b)", 18.8, 37.5, 16.0),
                _changed("ZFNet (b), fc 8192", 10.0, 38.3, 16.9),
            ),
        ),
    ),
    note=(
        "The paper does not state its views; measured errors are of ten. Asterisk: pretrained on "
        "other images. Layers 3 and 4 are convolutions, 6 and 7 fully connected (fc), with 4096 "
        "units unless stated otherwise."
    ),
    states_views=False,
)


def _vgg_row(letter: str, scale: str, test: str, top1: float, top5: float) -> Row:
    """Return a row of VGG's table 3."""
    return Row(letter, (top1, top5), ((f"VGG {letter}, S = {scale}", 1),), "dense", (scale, test))


_JITTER = "[256; 512]"
VGG = Paper(
    name="vgg",
    citation="Simonyan and Zisserman (2014)",
    tables=(
        _on_2012(
            3,
            "Errors at a single test scale on the validation images of ILSVRC-2012, in %.",
            (_VAL_TOP1, _VAL_TOP5),
            (
                _vgg_row("A", "256", "256", 29.6, 10.4),
                _vgg_row("A-LRN", "256", "256", 29.7, 10.5),
                _vgg_row("B", "256", "256", 28.7, 9.9),
                _vgg_row("C", "256", "256", 28.1, 9.4),
                _vgg_row("C", "384", "384", 28.1, 9.3),
                _vgg_row("C", _JITTER, "384", 27.3, 8.8),
                _vgg_row("D", "256", "256", 27.0, 8.8),
                _vgg_row("D", "384", "384", 26.8, 8.7),
                _vgg_row("D", _JITTER, "384", 25.6, 8.1),
                _vgg_row("E", "256", "256", 27.3, 9.0),
                _vgg_row("E", "384", "384", 26.9, 8.7),
                _vgg_row("E", _JITTER, "384", 25.5, 8.0),
            ),
            ("S, training", "Q, test"),
        ),
    ),
    note=(
        "S and Q: length in pixels to which the shorter side of an image is scaled. Models are "
        "applied to whole images and their reflections (dense). Those of small images have one "
        "scale, and are in the rows of S = 256, or with scale jitter in those of [256; 512]."
    ),
)


def _googlenet_row(models: int, crops: int, views: str, top5: float) -> Row:
    """Return a row of GoogLeNet's table 3."""
    name = f"{models} model{'s' * (models > 1)}"
    return Row(name, (top5,), (("GoogLeNet", models),), views, (str(crops),))


GOOGLENET = Paper(
    name="googlenet",
    citation="Szegedy et al. (2014)",
    tables=(
        _on_2012(
            3,
            "Errors on the validation images of ILSVRC-2012, in %.",
            (_VAL_TOP5,),
            (
                _googlenet_row(1, 1, "center", 10.07),
                _googlenet_row(1, 10, "ten", 9.15),
                _googlenet_row(1, 144, "144", 7.89),
                _googlenet_row(7, 1, "center", 8.09),
                _googlenet_row(7, 10, "ten", 7.62),
                _googlenet_row(7, 144, "144", 6.67),
            ),
            ("crops",),
        ),
    ),
    note="Probabilities are averaged over crops and models.",
)


def _resnet_row(name: str, top1: float, *top5: float) -> Row:
    """Return a row of ResNet's tables 2 and 3."""
    return Row(name, (top1, *top5), ((name, 1),))


# Errors of residual networks on CIFAR-10 by their number of layers (table 6 of He et al. 2015).
CIFAR_ERRORS = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}


def _cifar_row(layers: int, millions: str, remark: str = "") -> Row:
    """Return a row of ResNet's table 6."""
    networks, error = ((f"ResNet-{layers} (CIFAR)", 1),), CIFAR_ERRORS[layers]
    return Row(f"ResNet-{layers}{remark}", (error,), networks, "center", (millions,))


RESNET = Paper(
    name="resnet",
    citation="He, Zhang, Ren and Sun (2015)",
    tables=(
        _on_2012(
            2,
            "Errors of plain and residual networks on the validation images of ILSVRC-2012, in %.",
            (_VAL_TOP1,),
            (
                _resnet_row("plain-18", 27.94),
                _resnet_row("ResNet-18 A", 27.88),
                _resnet_row("plain-34", 28.54),
                _resnet_row("ResNet-34 A", 25.03),
            ),
        ),
        _on_2012(
            3,
            "Errors of single models on the validation images of ILSVRC-2012, in %.",
            (_VAL_TOP1, _VAL_TOP5),
            (
                Row("*VGG-16*", (28.07, 9.33)),
                _resnet_row("plain-34", 28.54, 10.02),
                _resnet_row("ResNet-34 A", 25.03, 7.76),
                _resnet_row("ResNet-34 B", 24.52, 7.46),
                _resnet_row("ResNet-34 C", 24.19, 7.40),
                _resnet_row("ResNet-50 B", 22.85, 6.71),
                _resnet_row("ResNet-101 B", 21.75, 6.05),
                _resnet_row("ResNet-152 B", 21.43, 5.71),
            ),
        ),
        Table(
            number=6,
            caption="Errors on the test images of CIFAR-10, in %.",
            images="CIFAR-10",
            split="test",
            count=10_000,
            classes=10,
            columns=(Column("Top-1", "test", TOP1),),
            rows=(
                _cifar_row(20, "0.27 M"),
                _cifar_row(32, "0.46 M"),
                _cifar_row(44, "0.66 M"),
                _cifar_row(56, "0.85 M"),
                _cifar_row(110, "1.7 M", ", best of five"),
                _cifar_row(1202, "19.4 M"),
            ),
            details=("parameters",),
        ),
    ),
    note=(
        "Ten crops on ImageNet, the whole image on CIFAR-10. A, B and C are the kinds of "
        "shortcuts. The five runs of ResNet-110 have 6.61 ± 0.16 %."
    ),
)

PAPERS = (ALEXNET, ZFNET, VGG, GOOGLENET, RESNET)
