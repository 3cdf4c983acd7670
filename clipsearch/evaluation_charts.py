"""Charts of measured figures as SVG: pure functions of numbers, no script.

Each returns markup for a page whose style holds ``chart_style()``. Series differ by more than
their colour: by their place and name, or the form of their marks. A page sets a table with the
same numbers beside a chart, for those who cannot see it.
"""

from __future__ import annotations

from clipsearch.axis_charts import lines, reliability_diagram
from clipsearch.bar_charts import Bar, bars, grouped_bars
from clipsearch.heat_map import heat_map
from clipsearch.html_pages import template_text

__all__ = ["Bar", "bars", "chart_style", "grouped_bars", "heat_map", "lines", "reliability_diagram"]


def chart_style() -> str:
    """The style sheet of the charts. It takes --text, --soft, --line, --card and --back from
    the page's own (``cluster_report.css``)."""
    return template_text("charts.css")
