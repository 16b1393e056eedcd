"""Format the comparison of families as Markdown and as an HTML page."""

import datetime
from collections.abc import Iterable, Sequence

from experiments import html_page
from experiments.families.content import NetworkSummary
from experiments.families.plots import plot_families
from experiments.families.samples import SampleRun

TEMPLATE = "families/families.html.jinja"
NONE = "—"
HEADS = (
    *("network", "layers", "parameters", "multiply-adds", "receptive field", "stride"),
    *("top-1", "top-5", "measured as"),
)
SAMPLE_HEADS = (
    *("model", "config", "parameters", "top-1, center view", "top-1, ten views", "machine", "date"),
)
SAMPLES = (
    "Measured here, in %: errors of the samples, small models of each family, on 2,000 test images "
    "of Fashion-MNIST in ten classes. Nothing was run on ImageNet."
)


def make_cells(summary: NetworkSummary) -> tuple[str, ...]:
    """Return the cells of a network, as text, in the order of HEADS."""
    published = summary.published
    errors = [NONE if e is None else str(e) for e in (published.top1, published.top5)]
    return (
        summary.name,
        str(summary.depth),
        f"{summary.parameters / 1e6:.1f} M",
        f"{summary.multiply_adds / 1e9:.2f} G",
        str(summary.receptive_fields[-1]),
        str(summary.stride),
        *errors,
        published.source,
    )


def make_sample_cells(run: SampleRun) -> tuple[str, ...]:
    """Return the cells of a sample's model, as text, in the order of SAMPLE_HEADS."""
    errors = (f"{run.center:.2f}", f"{run.ten:.2f}")
    return (run.model, run.config, f"{run.parameters:,}", *errors, run.machine, run.date)


def format_markdown(summaries: Sequence[NetworkSummary], samples: Sequence[SampleRun]) -> str:
    """Return the tables of networks and of the samples as Markdown."""
    networks = _format_table(HEADS, map(make_cells, summaries))
    ours = _format_table(SAMPLE_HEADS, map(make_sample_cells, samples))
    return f"{networks}\n\n{SAMPLES}\n\n{ours}"


def _format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(heads)}", *lines[1:]])


def make_page(summaries: Sequence[NetworkSummary], samples: Sequence[SampleRun]) -> str:
    """Return the page as HTML."""
    alt = (
        "Left: multiply-adds and published top-5 error of each network. Right: receptive fields "
        "of the convolutions of each network, by depth."
    )
    return html_page.render_template(
        TEMPLATE,
        figure=html_page.embed_figure(plot_families(summaries), alt),
        heads=HEADS,
        rows=[make_cells(summary) for summary in summaries],
        sample_text=SAMPLES,
        sample_heads=SAMPLE_HEADS,
        sample_rows=[make_sample_cells(run) for run in samples],
        crop=summaries[0].crop,
        date=datetime.date.today().isoformat(),
    )
