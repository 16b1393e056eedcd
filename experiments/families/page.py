"""Format the comparison of families as Markdown and as an HTML page."""

import datetime
from collections.abc import Sequence

from experiments import html_page
from experiments.families.content import NetworkSummary
from experiments.families.plots import plot_families

TEMPLATE = "families/families.html.jinja"
NOT_RUN, NONE = "not run", "—"
HEADS = (
    *("network", "layers", "parameters", "multiply-adds", "receptive field", "stride"),
    *("top-1", "top-5", "measured as", "here"),
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
        NOT_RUN,
    )


def format_markdown(summaries: Sequence[NetworkSummary]) -> str:
    """Return the table as Markdown."""
    rows = [HEADS, *map(make_cells, summaries)]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], f"|{'---|' * len(HEADS)}", *lines[1:]])


def make_page(summaries: Sequence[NetworkSummary]) -> str:
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
        crop=summaries[0].crop,
        date=datetime.date.today().isoformat(),
    )
