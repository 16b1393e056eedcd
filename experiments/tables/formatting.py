"""Format the tables of papers with measured errors, as Markdown and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from alexnet_jax.evaluate import VIEW_NAMES
from alexnet_jax.metrics import Metrics
from experiments.tables.measuring import Measurements
from experiments.tables.planning import Further, Images, Plan
from experiments.tables.published import TOP1, TOP5, Row, Table

NOT_RUN, NONE = "not run", "—"
ERRORS = {TOP1: "Top-1", TOP5: "Top-5"}  # of other images than a table's


def format_paper(plan: Plan, measurements: Measurements) -> str:
    """Return the tables of a paper as Markdown, with the models that have no row in them."""
    parts = [_format_table(plan, table, measurements) for table in plan.paper.tables]
    parts.append(plan.paper.note)
    if plan.further:
        parts.append(_format_further(plan, measurements))
    return "\n\n".join(parts)


def _format_table(plan: Plan, table: Table, measurements: Measurements) -> str:
    """Return a table as Markdown, errors in percent."""
    others = _other_images(plan, table)
    heads = ["", *table.details, *(column.heading for column in table.columns)]
    heads += [f"measured: {column.heading}" for column in table.columns]
    for images in others:
        heads += [f"measured on {_name(images)}: {head}" for head in ERRORS.values()]
    rows = []
    for row in table.rows:
        results = _results_of(plan, table, row, measurements)
        cells = [row.model, *row.details]
        cells += [NONE if error is None else _published(table, error) for error in row.paper]
        ours = [*_own(table, results), *(e for i in others for e in _errors(results.get(i)))]
        rows.append([*cells, *(_measured(error) if row.networks else NONE for error in ours)])
    title = f"**{plan.paper.citation}, table {table.number}.** {table.caption}"
    return f"{title}\n\n{_markdown(heads, rows)}"


def _format_further(plan: Plan, measurements: Measurements) -> str:
    """Return what has no row in the paper as Markdown, errors in percent."""
    heads = ["", "images", "views", *ERRORS.values()]
    rows = [
        [
            row.label,
            _name(row.images),
            VIEW_NAMES[row.views],
            *(_measured(error) for error in _errors(_result_of(row, measurements))),
        ]
        for row in plan.further
    ]
    return f"**Without a row in the paper.** Measured errors, in %.\n\n{_markdown(heads, rows)}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def _name(images: Images) -> str:
    """Return the images with their split and number."""
    return f"{images.name}, {images.split}, {images.count:,} images"


def _published(table: Table, error: float) -> str:
    """Return a published error with as many decimals as its table has."""
    errors = [e for row in table.rows for e in row.paper if e is not None]
    decimals = max(len(str(e).partition(".")[2]) for e in errors)
    return f"{error:.{decimals}f}"


def _measured(error: float | None) -> str:
    """Return a measured error in percent, or that it was not run."""
    return NOT_RUN if error is None else f"{100 * error:.2f}"


def _other_images(plan: Plan, table: Table) -> list[Images]:
    """Return the images other than the table's own on which its rows have models."""
    used = (one.images for one in plan.measured if one.table == table)
    return [images for images in dict.fromkeys(used) if images.name != table.images]


def _results_of(
    plan: Plan, table: Table, row: Row, measurements: Measurements
) -> dict[Images, Metrics]:
    """Return what was measured for a row, by images."""
    tests = {
        one.images: (one.members, row.views)
        for one in plan.measured
        if (one.table, one.row) == (table, row)
    }
    errors = measurements.errors
    return {images: errors[test] for images, test in tests.items() if test in errors}


def _result_of(row: Further, measurements: Measurements) -> Metrics | None:
    """Return what was measured for models without a row."""
    return measurements.errors.get((row.members, row.views))


def _own(table: Table, results: dict[Images, Metrics]) -> list[float | None]:
    """Return the errors on a table's own images, for each of its columns; None if not run."""
    of_split = {i.split: result for i, result in results.items() if i.name == table.images}
    return [_error(of_split.get(column.split), column.error) for column in table.columns]


def _errors(result: Metrics | None) -> list[float | None]:
    """Return top-1 and top-5 error; None if not run."""
    return [_error(result, name) for name in ERRORS]


def _error(result: Metrics | None, name: str) -> float | None:
    """Return an error of a result; None if there is none."""
    values: dict[str, Any] = {**result} if result else {}
    return values.get(name)


def to_json(plan: Plan, measurements: Measurements) -> Iterator[dict[str, Any]]:
    """Yield the rows of a paper as JSON objects, as the command's help describes."""
    for table in plan.paper.tables:
        names = [f"{c.error.removesuffix('_error')}_{c.split}" for c in table.columns]
        for row in table.rows:
            results = _results_of(plan, table, row, measurements)
            paper = [None if error is None else round(error / 100, 4) for error in row.paper]
            own = dict(zip(names, _own(table, results), strict=True))
            yield {
                "publication": plan.paper.name,
                "table": table.number,
                "images": table.images,
                "model": row.model.strip("*") if not row.networks else row.model,
                "details": dict(zip(table.details, row.details, strict=True)),
                "views": row.views if row.networks else None,
                "paper": dict(zip(names, paper, strict=True)),
                "measured": own if row.networks else None,
                "other": [
                    _json_errors(images, results.get(images))
                    for images in _other_images(plan, table)
                    if images in results
                ],
            }
    for further in plan.further:
        yield {
            "publication": plan.paper.name,
            "table": None,
            "images": None,
            "model": further.label,
            "details": {},
            "views": further.views,
            "paper": None,
            "measured": None,
            "other": [_json_errors(further.images, _result_of(further, measurements))],
        }


def _json_errors(images: Images, result: Metrics | None) -> dict[str, Any]:
    """Return errors as fractions, with the images that they are of."""
    errors = dict(zip(ERRORS, _errors(result), strict=True))
    return {"images": images.name, "split": images.split, "count": images.count, **errors}
