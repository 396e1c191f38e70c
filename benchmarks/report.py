"""A run's figures as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import targets
from benchmarks.targets import Finding

TITLES = {
    "bulk": "Bulk",
    "messages": "Messages",
    "connections": "New connections",
    "rest": "Cost at rest",
    "start": "Start and reload",
    "isolation": "Isolation",
    "growth": "Growth",
    "tunnels": "Tunnels",
}
"""Groups of measures, in the page's order."""

NONE = "-"


def page(result: Mapping[str, Any]) -> str:
    """The page of ``result``, which is what speed.json holds; the plots lie beside it."""
    sections = [_head(result), _targets(result["measures"])]
    notes = result["notes"]
    sections += [
        _group(group, measures, result["rounds"], notes.get(group, ()))
        for group, measures in groups(result["measures"]).items()
    ]
    sections += [_absent(result), _configurations(result["subjects"])]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def groups(measures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of each group that has any."""
    found = {
        group: {name: measure for name, measure in measures.items() if measure["group"] == group}
        for group in TITLES
    }
    return {group: inside for group, inside in found.items() if inside}


def subjects_of(measures: Mapping[str, Any]) -> list[str]:
    """Whoever has a figure in one of the measures, in the order of their first appearance."""
    return list(dict.fromkeys(subject for measure in measures.values() for subject in measure["subjects"]))


def number(value: float | None) -> str:
    """Three significant digits, thousands separated; a dash where there is no figure."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 100:
        return f"{rounded:,.0f}"
    return f"{value:#.3g}" if abs(rounded) >= 0.001 else f"{value:.3g}"


def compared(value: float | None) -> str:
    """Three decimal places: a bound that was missed closely is not to look reached."""
    return NONE if value is None else f"{value:.3f}"


def between(value: float | None, values: Sequence[float]) -> str:
    """A ratio, and its least and most in a round."""
    least_and_most = f" ({compared(min(values))} to {compared(max(values))})" if values else ""
    return compared(value) + least_and_most


def better(measure: Mapping[str, Any]) -> str:
    """Which way a measure is read."""
    return "more is better" if measure["more_is_better"] else "less is better"


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    rounds = f"{result['rounds']} rounds" if result["rounds"] > 1 else "one round"
    yield "# Speed"
    yield ""
    yield (
        "Loopback on one machine: read the figures as ratios within this run. Every cell is the median of "
        f"{rounds}, with the least and the most in brackets, and in how many rounds there was a figure where "
        f"that was not in all; a timed step takes {result['seconds']:g} s. "
        "The relays take turns within a round."
    )
    yield ""
    yield f"CPUs: {result['pinning']}"
    yield ""
    yield from _table(["machine", ""], result["machine"].items())
    yield ""
    yield "![Relays beside HAProxy on the main measures](summary.svg)"


def _targets(measures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Targets"
    yield ""
    yield (
        f"{targets.OURS} with one worker as a ratio to {targets.YARDSTICK} with one thread, "
        "or to whoever stands with the figure there, "
        "in brackets the least and the most of the rounds' own ratios; "
        "where a unit stands with due and goal, the figure itself counts."
    )
    yield ""
    head = ["measure", targets.YARDSTICK, targets.OURS, "ratio", "due", "goal", "verdict"]
    yield from _table(head, map(_finding, targets.findings(measures)), numeric=range(1, 6))


def _finding(finding: Finding) -> list[str]:
    target = finding.target
    unit = f" {finding.unit}" if finding.unit else ""
    ratio = targets.ratio(finding.ours, finding.yardstick)
    bounds = [f"{bound:g}{unit if target.absolute else ''}" for bound in (target.due, target.goal)]
    medians = [NONE if value is None else number(value) + unit for value in (finding.yardstick, finding.ours)]
    if target.yardstick != targets.YARDSTICK:
        medians[0] += f" ({target.yardstick})"
    return [target.measure, *medians, between(ratio, finding.ratios), *bounds, finding.verdict]


def _group(group: str, measures: Mapping[str, Any], rounds: int, notes: Sequence[str]) -> Iterator[str]:
    yield f"## {TITLES[group]}"
    yield ""
    yield f"![{TITLES[group]}]({group}.svg)"
    yield ""
    for note in notes:
        yield note
        yield ""
    subjects = subjects_of(measures)
    names = [f"{name}, {measure['unit']} ({better(measure)})" for name, measure in measures.items()]
    cells = [[_cell(measure, subject, rounds) for subject in subjects] for measure in measures.values()]
    if len(names) > len(subjects):
        rows = [[name, *row] for name, row in zip(names, cells, strict=True)]
        yield from _table(["measure", *subjects], rows, numeric=range(1, len(subjects) + 1))
    else:
        columns = zip(*cells, strict=True)
        rows = [[subject, *column] for subject, column in zip(subjects, columns, strict=True)]
        yield from _table(["subject", *names], rows, numeric=range(1, len(names) + 1))


def _cell(measure: Mapping[str, Any], subject: str, rounds: int) -> str:
    figure = measure["subjects"].get(subject)
    if figure is None:
        return NONE
    measured = sum(value is not None for value in figure["values"])
    some = f", {measured} of {rounds}" if measured < rounds else ""
    return f"{number(figure['median'])} ({number(figure['min'])} to {number(figure['max'])}){some}"


def _absent(result: Mapping[str, Any]) -> Iterator[str]:
    yield "## Failed or missing"
    yield ""
    if result["missing"]:
        yield f"Not installed, so not measured: {', '.join(result['missing'])}."
    else:
        yield "Every peer was installed."
    yield ""
    for group, why in result["left out"].items():
        yield f"Left out, {group}: {why}."
        yield ""
    if result["failed"]:
        rows = [[failure["subject"], failure["measure"], failure["why"]] for failure in result["failed"]]
        yield from _table(["subject", "measure", "why"], rows)
    else:
        yield "No step failed."


def _configurations(subjects: Mapping[str, Any]) -> Iterator[str]:
    yield "## Versions and configurations"
    yield ""
    yield "Directories and ports are not the same in every step."
    for name, subject in subjects.items():
        yield ""
        yield f"### {name} {subject['version']}".rstrip()
        yield ""
        yield "```"
        yield subject["configuration"].strip()
        yield "```"


def _table(head: Sequence[str], rows: Iterable[Iterable[str]], numeric: range = range(0)) -> Iterator[str]:
    """A table; the columns of ``numeric`` are set to the right."""
    rules = ["---:" if column in numeric else "---" for column in range(len(head))]
    for cells in (head, rules, *rows):
        yield f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
