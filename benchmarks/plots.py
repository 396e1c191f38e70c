"""A run's figures as pictures: SVG, the same bytes for the same figures.

This relay is blue, everyone else is grey. Text stays text, and with the ground it follows the reader's choice
of light or dark; the blue and the greys stand out from both.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.targets import OURS, YARDSTICK, median, ratio

Measures = Mapping[str, Any]
"""Of a run, by name, as in speed.json."""

SUMMARY = {
    "bulk, one stream, client to server": "bulk, one stream",
    "keep-alive requests, 32 clients": "requests, 32 clients",
    "new connections": "new connections",
    "64 B round trip, p50": "64 B round trip, p50",
    "p99 under bulk load": "p99 under bulk",
    "memory per idle connection": "idle connection",
}
"""The main measures, and what they are called where there is little room."""

BLUE, LIGHT_BLUE, GREY = "#2f7fd6", "#7fb2ea", "#8b949e"
_PAPER = "#ffffff"
_WIDTH = 9.0
_BAR = 0.21
"""Inches: of the picture's width, and of height for each bar."""
_COLUMNS = 3
_CURVE = 8
"""Bars that take as much room as a curve."""
_FEWEST = 3
"""Bars that a panel has room for at least."""
_CUT = 4.0
"""A bar that is so many times as long as those of this relay and of HAProxy is cut there."""
_TITLE = 28
"""Letters of a panel's title that fit into a line."""
_MARKERS = "osD^vP*X"
_AT = re.compile(r"(?P<what>.*?),? (?:at |with |of )?(?P<number>\d[\d,]*) (?P<unit>[a-z]+)")
"""The name of a measure that is one point of a curve."""

_STYLE: Any = {
    "svg.hashsalt": OURS,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "figure.facecolor": _PAPER,
    "axes.facecolor": "none",
}
_DARK = """\
<style>
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 !important }
    #paper path { fill: #0d1117 !important }
  }
</style>
"""


def draw(result: Mapping[str, Any], directory: Path) -> None:
    """Write ``summary.svg``, and one picture for each group of measures.

    A measure of this relay alone is no comparison, and is left to the report's tables unless it grows.
    """
    measures = result["measures"]
    with matplotlib.rc_context(_STYLE):
        main = {title: measures[name] for name, title in SUMMARY.items() if name in measures}
        if main:
            _save(_summary(main), directory / "summary.svg")
        for group, inside in report.groups(measures).items():
            curves, single = _curves(inside) if group == "growth" else ({}, inside)
            compared = {name: measure for name, measure in single.items() if _has_peers(measure)}
            _save(_panels(curves, compared or single), directory / f"{group}.svg")


def _has_peers(measure: Mapping[str, Any]) -> bool:
    return not all(subject.startswith(OURS) for subject in measure["subjects"])


def _save(figure: Figure, file: Path) -> None:
    figure.patch.set_gid("paper")
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    head, mark, rest = written.getvalue().partition(" <defs>\n")
    lines = f"{head}{_DARK}{mark}{rest}".splitlines()
    file.write_text("".join(f"{line.rstrip()}\n" for line in lines))


def _summary(main: Measures) -> Figure:
    """The main measures side by side, each as multiples of HAProxy's figure, one row a subject."""
    subjects = [subject for subject in report.subjects_of(main) if "," not in subject]
    figure = Figure(figsize=(_WIDTH, 1.1 + _BAR * len(subjects)), layout="constrained")
    panels = figure.subplots(1, len(main), sharey=True, squeeze=False)[0]
    for axes, (title, measure) in zip(panels, main.items(), strict=True):
        yardstick = median(measure, YARDSTICK)
        ratios = {subject: ratio(median(measure, subject), yardstick) for subject in subjects}
        _bars(axes, ratios, labels=dict(zip(ratios, map(_times, ratios.values()), strict=True)))
        one = [] if yardstick is None else [f"{YARDSTICK}: {report.number(yardstick)} {measure['unit']}"]
        _titled(axes, title, report.better(measure), *one)
        axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    figure.suptitle(f"As multiples of {YARDSTICK}, over loopback", x=0.01, ha="left", fontsize=9)
    return figure


def _panels(curves: Mapping[str, Mapping[float, Any]], single: Measures) -> Figure:
    """One panel for each curve, and one for each measure that stands alone with its bars."""
    wanted = [_CURVE] * len(curves) + [len(measure["subjects"]) for measure in single.values()]
    columns = min(_COLUMNS, len(wanted))
    tallest = [max(_FEWEST, *wanted[at : at + columns]) for at in range(0, len(wanted), columns)]
    heights = [0.9 + _BAR * bars for bars in tallest]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    panels: Iterator[Axes] = iter(grid.flat)
    for what, points in curves.items():
        _curve(next(panels), what, points)
    for at, (name, measure) in enumerate(single.items(), len(curves)):
        _measure(next(panels), name, measure, tallest[at // columns])
    for left in panels:
        left.set_axis_off()
    return figure


def _curves(measures: Measures) -> tuple[dict[str, dict[float, Any]], Measures]:
    """Measures by the number in their names, where these differ in nothing else; and those that are left."""
    curves: dict[str, dict[float, Any]] = {}
    names: dict[str, str] = {}
    for name, measure in measures.items():
        if found := _AT.fullmatch(name):
            what = f"{found['what']}, by {found['unit'].removesuffix('s')}s"
            curves.setdefault(what, {})[float(found["number"].replace(",", ""))] = measure
            names[name] = what
    curves = {what: points for what, points in curves.items() if len(points) > 1}
    return curves, {name: measure for name, measure in measures.items() if names.get(name) not in curves}


def _measure(axes: Axes, name: str, measure: Mapping[str, Any], rows: int) -> None:
    """The medians as bars, under each of them a line from the least to the most."""
    medians = {subject: median(measure, subject) for subject in measure["subjects"]}
    labels = {subject: report.number(value) for subject, value in medians.items()}
    limit = _bars(axes, medians, labels)
    for row, (subject, figure) in enumerate(measure["subjects"].items()):
        ends = [max(min(figure[end], limit), 0.0) for end in ("min", "max")]
        axes.plot(ends, (row + 0.45,) * 2, color=_colour(subject), linewidth=1.2, solid_capstyle="butt")
    axes.set_ylim(rows - 0.4, -0.6)
    _titled(axes, name, f"{measure['unit']}, {report.better(measure)}")


def _bars(axes: Axes, values: Mapping[str, float | None], labels: Mapping[str, str]) -> float:
    """A bar for each subject, from the top down; returns where those are cut that are far longer."""
    known = {subject: value for subject, value in values.items() if value is not None}
    near = max((known[subject] for subject in (OURS, YARDSTICK) if subject in known), default=0.0)
    longest = max(known.values(), default=0.0)
    limit = min(longest, near * _CUT) or longest or 1.0
    for row, (subject, value) in enumerate(values.items()):
        # Memory that a relay gave back meanwhile is a negative cost.
        length = max(min(value or 0.0, limit), 0.0)
        axes.barh(row, length, color=_colour(subject), height=0.7)
        cut = " »" if value is not None and value > limit else ""
        axes.annotate(
            f"{labels[subject]}{cut}", (length, row), (3, 0), textcoords="offset points", va="center"
        ).set_fontweight(_weight(subject))
    axes.set_yticks(range(len(values)), list(values), color="black")
    for label in axes.get_yticklabels():
        label.set_fontweight(_weight(label.get_text()))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, limit * 1.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["bottom", "left"]].set_visible(False)
    return limit


def _curve(axes: Axes, what: str, points: Mapping[float, Mapping[str, Any]]) -> None:
    first = next(iter(points.values()))
    subjects = report.subjects_of({str(number): measure for number, measure in points.items()})
    for subject, marker in zip(subjects, _MARKERS, strict=False):
        line = {number: median(measure, subject) for number, measure in sorted(points.items())}
        known = {number: value for number, value in line.items() if value is not None}
        axes.plot(
            list(known),
            list(known.values()),
            color=_colour(subject),
            linewidth=2 if subject == OURS else 1.2,
            linestyle="-" if subject.startswith(OURS) else "--",
            marker=marker,
            markersize=4,
            label=subject,
            zorder=3 if subject == OURS else 2,
        )
    axes.set_xscale("log")
    axes.set_xticks(sorted(points), [f"{number:,.0f}" for number in sorted(points)], color="black")
    axes.minorticks_off()
    axes.set_ylim(bottom=min(0.0, axes.dataLim.y0 * 1.1))
    axes.tick_params(axis="y", labelcolor="black")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.5)
    axes.legend(frameon=False)
    _titled(axes, what, f"{first['unit']}, {report.better(first)}")


def _titled(axes: Axes, name: str, *lines: str) -> None:
    axes.set_title("\n".join([*textwrap.wrap(name, _TITLE), *lines]))


def _times(value: float | None) -> str:
    return report.NONE if value is None else f"{value:.2f}" if value < 10 else report.number(value)


def _colour(subject: str) -> str:
    if subject == OURS:
        return BLUE
    return LIGHT_BLUE if subject.startswith(OURS) else GREY


def _weight(subject: str) -> str:
    return "bold" if subject == OURS else "normal"
