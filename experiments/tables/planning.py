"""Plan which models make each row of a paper's tables, and what is to be evaluated for that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alexnet_jax.evaluate import VIEW_NAMES
from experiments.tables.published import Paper, Row, Table


@dataclass(frozen=True)
class Images:
    """The images on which a model is evaluated.

    Attributes:
        name: of the data set of a table, else of the model's data.
        split: of them.
        count: number of images in it.
    """

    name: str
    split: str
    count: int


@dataclass(frozen=True)
class Given:
    """A model that was given, by what the tables need to know of it.

    Attributes:
        workdir: folder of its run.
        network: name of its network, None for a model that is none of the papers'.
        is_full: whether it is the network at the paper's size.
        images: what it is evaluated on.
    """

    workdir: str
    network: str | None
    is_full: bool
    images: Images


# The numbers of the models whose average is evaluated, and the way of testing.
Test = tuple[tuple[int, ...], str]


@dataclass(frozen=True)
class Measured:
    """A row of the paper with models for it on some images.

    Attributes:
        table, row: of the paper.
        images: those of the models.
        members: numbers of the models that are averaged.
    """

    table: Table
    row: Row
    images: Images
    members: tuple[int, ...]


@dataclass(frozen=True)
class Further:
    """A model, or an average of models, that has no row in the paper.

    Attributes:
        label: which models.
        images: those of the models.
        members: numbers of the models.
        views: way of testing.
    """

    label: str
    images: Images
    members: tuple[int, ...]
    views: str


@dataclass(frozen=True)
class Plan:
    """The rows of a paper that can be measured, and what is measured beside them."""

    paper: Paper
    measured: tuple[Measured, ...]
    further: tuple[Further, ...]

    def tests(self) -> set[Test]:
        """Return what is to be evaluated, each once."""
        return {(row.members, row.row.views) for row in self.measured} | {
            (row.members, row.views) for row in self.further
        }


def plan_paper(paper: Paper, given: Sequence[Given]) -> Plan:
    """Return the rows of a paper for the given models.

    A row of n models averages the first n of its network on the same images. Models of fewer
    filters than the paper's do not count on the images of the table, only on others. What has no
    row follows as `Further`: averages of all models of a network, and of all networks together, if
    the paper averages models; models of which the row takes another one; and models that are no
    network of the paper's.
    """
    every_images = list(dict.fromkeys(one.images for one in given))
    measured = [
        Measured(table, row, images, members)
        for table in paper.tables
        for row in table.rows
        for images in every_images
        if (members := _members(paper, table, row, given, images))
    ]
    further = [row for images in every_images for row in _plan_further(paper, given, images)]
    done = {(row.members, row.row.views) for row in measured}
    return Plan(
        paper,
        tuple(measured),
        tuple(row for row in further if (row.members, row.views) not in done),
    )


def _members(
    paper: Paper, table: Table, row: Row, given: Sequence[Given], images: Images
) -> tuple[int, ...] | None:
    """Return the numbers of the models of a row on some images; None if there are too few."""
    members: list[int] = []
    for network, count in row.networks:
        of = [
            number
            for number, one in enumerate(given)
            if (one.network, one.images) == (network, images) and _accepts(paper, table, one)
        ]
        if len(of) < count:
            return None
        members += of[:count]
    return tuple(members)


def _accepts(paper: Paper, table: Table, one: Given) -> bool:
    """Return whether a table has a place for a model of one of its rows.

    On its own images only models of the paper's size have one; on others all have, unless these are
    the images of another table that has the network.
    """
    if one.images.name == table.images:
        return one.is_full
    return not any(
        other.images == one.images.name and one.network in _networks(other)
        for other in paper.tables
    )


def _networks(table: Table) -> set[str]:
    """Return the networks in the rows of a table."""
    return {network for row in table.rows for network, _ in row.networks}


def _plan_further(paper: Paper, given: Sequence[Given], images: Images) -> Iterable[Further]:
    """Yield models and averages on some images, also those that have a row."""
    rows = [row for table in paper.tables for row in table.rows]
    by_network: dict[str | None, list[int]] = {}
    for number, one in enumerate(given):
        if one.images == images:
            known = one.network if _has_place(paper, one) else None
            by_network.setdefault(known, []).append(number)
    others = by_network.pop(None, [])
    groups: list[tuple[str, tuple[int, ...], set[str | None]]] = []
    for network, of in by_network.items():
        if not paper.averages:
            groups += [(given[n].workdir, (n,), {network}) for n in of]
            continue
        groups.append((f"1 × {network}", (of[0],), {network}))
        if len(of) > 1:
            groups.append((f"{len(of)} × {network}", tuple(of), {network}))
    if paper.averages and len(by_network) > 1:
        together = tuple(n for of in by_network.values() for n in of)
        label = " + ".join(f"{len(of)} × {name}" for name, of in by_network.items())
        groups.append((label, together, {*by_network}))
    groups += [(given[n].workdir, (n,), set()) for n in others]
    for label, members, networks in groups:
        ways = {
            row.views
            for row in rows
            if row.networks and (not networks or networks & {name for name, _ in row.networks})
        }
        for views in sorted(ways, key=[*VIEW_NAMES].index):
            yield Further(label, images, members, views)


def _has_place(paper: Paper, one: Given) -> bool:
    """Return whether a table of the paper has a place for a model."""
    return any(
        one.network in _networks(table) and _accepts(paper, table, one) for table in paper.tables
    )
