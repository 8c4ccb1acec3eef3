"""What happens inside: gates, experts, stitches, gradients. A part of the page for each run."""

from collections.abc import Sequence

from pipeline.report.charts import Line, line_chart
from pipeline.report.heat import heat_map, heat_over_rows
from pipeline.report.page import Cell, Chart, Page, Row
from pipeline.run_report.findings import experts, mean, thirds
from pipeline.run_report.learning import spoken
from pipeline.run_report.record import Run, Series
from pipeline.run_report.words import NOTHING

MOST_CHARTS = 12
"""Of pairs of tasks over the run, the most opposed ones."""
Gates = dict[str, dict[str, dict[str, Series]]]
"""Level -> gate -> expert -> its mean weight."""


def inside(page: Page, runs: Sequence[Run]) -> None:
    """Gates and experts, or stitches, by run."""
    page.section(
        "Who uses which expert",
        "A gate mixes the experts of a level by weights that add up to 1. Where tasks agree they lean on the same "
        "experts; where they are in conflict each leans on its own.",
    )
    shown = False
    for run in runs:
        gates, stitches = _nested(run, "gates"), _nested(run, "stitches")
        if not gates and not stitches:
            continue
        shown = True
        whose = f" of {run.label}" if len(runs) > 1 else ""
        for level in sorted(gates, key=_place):
            _level(page, run, level, gates[level], whose)
        for level in sorted(stitches, key=_place):
            page.part(f"Level {level}{whose}: shares of the tasks' units that each task takes")
            page.charts(_over_rows(stitches[level]))
    if not shown:
        arch = (runs[0].about.get("model") or {}).get("arch", "this architecture")
        page.text(f"No gates were recorded: {arch} has none, or telemetry was off (tracking.telemetry.every).", "quiet")


def _level(page: Page, run: Run, level: str, gates: dict[str, dict[str, Series]], whose: str) -> None:
    page.part(f"Level {level}{whose}")
    names = list(dict.fromkeys(expert for gate in gates.values() for expert in gate))
    last = [[_late(gate.get(expert, [])) for expert in names] for gate in gates.values()]
    charts = [
        Chart(
            "Gate by expert, last third of the run",
            heat_map(f"Gate weights of level {level}", list(gates), names, last),
        )
    ]
    page.charts([*charts, *_over_rows(gates)])
    rows: list[Row] = []
    entropy = run.below("gate_entropy", level)
    for gate, weights in gates.items():
        own = (
            0.0
            if gate not in run.kinds
            else sum(_late(points) or 0.0 for expert, points in weights.items() if expert.rpartition(".")[0] == gate)
        )
        shared = sum(
            _late(points) or 0.0 for expert, points in weights.items() if expert.rpartition(".")[0] == "shared"
        )
        told = _late(entropy.get(gate, []))
        rows.append(
            [gate, f"{own:.1%}" if gate in run.kinds else NOTHING, f"{shared:.1%}", f"{max(1 - own - shared, 0):.1%}"]
        )
        rows[-1] = [*rows[-1], NOTHING if told is None else f"{told:.2f}"]
    page.table(
        ["gate", "on its own experts", "on shared ones", "on others", "entropy"],
        rows,
        f"Level {level}{whose}, last third of the run: where each gate leans. Entropy 0: one expert alone; 1: all "
        "alike.",
    )
    lines = [Line(gate, points, n) for n, (gate, points) in enumerate(entropy.items())]
    loads = experts(run).get(level, {})
    shares = [Line(expert, points, n) for n, (expert, points) in enumerate(loads.items())]
    charts = []
    if lines:
        charts.append(Chart("Gate entropy", line_chart(spoken("Gate entropy", lines), lines), list(entropy)))
    if shares:
        drawn = line_chart(spoken("Expert load", shares), shares)
        charts.append(Chart("Experts' share of all gate weight", drawn, list(loads)))
    page.charts([*charts, *_similarity(run, level)])


def _similarity(run: Run, level: str) -> list[Chart]:
    pairs = run.below("experts", level, "similarity")
    if not pairs:
        return []
    names = list(dict.fromkeys(name for pair in pairs for name in pair.split("~")))
    values = [[1.0 if a == b else _pair(pairs, a, b) for b in names] for a in names]
    chart = heat_map(f"Similarity of the experts of level {level}", names, names, values)
    return [Chart("Similarity of experts (cosine), last third", chart)]


def gradients(page: Page, runs: Sequence[Run]) -> None:
    """Norms and pairwise cosines on the shared parameters."""
    page.section(
        "What tasks ask of the shared parameters",
        "Each task's loss has a gradient on the parameters that all tasks share. Its norm says how loudly a task asks; "
        "the cosine of two says whether they ask for the same (1), for unrelated things (0) or for opposite ones (-1).",
    )
    told = [run for run in runs if run.below("gradients")]
    if not told:
        page.text("No gradients were recorded: telemetry was off, or no parameter is shared.", "quiet")
        return
    for run in told:
        if len(runs) > 1:
            page.part(run.label)
        charts: list[Chart] = []
        norms = {task: run.of("gradients", task, "norm") for task in run.kinds}
        norms = {task: points for task, points in norms.items() if points}
        if norms:
            lines = [Line(task, points, n) for n, (task, points) in enumerate(norms.items())]
            drawn = line_chart(spoken("Gradient norms", lines), lines, form=".3g")
            charts.append(Chart("Norm of each task's gradient", drawn, list(norms)))
        pairs = run.below("gradients", "cosine")
        names = list(run.kinds)
        values = [[1.0 if a == b else _pair(pairs, a, b) for b in names] for a in names]
        if pairs:
            charts.append(
                Chart("Cosines, last third of the run", heat_map("Cosines of gradients", names, names, values))
            )
        for pair, points in sorted(pairs.items(), key=lambda each: mean(each[1]) or 0.0)[:MOST_CHARTS]:
            a, b = pair.split("~")
            line = [Line(pair, points)]
            charts.append(Chart(f"{a} and {b}", line_chart(spoken(f"Cosine of {a} and {b}", line), line, zero=True)))
        page.charts(charts)
    keys = {"least cosine of a step": "train/least_gradient_cosine"}
    if any(run.of(*keys.values()) for run in runs):
        rows: list[Row] = [[run.label, Cell(_last(run.of(*keys.values())))] for run in runs]
        page.table(["run", "least cosine, last window"], rows, "As the balancing method saw it.")


def _over_rows(gates: dict[str, dict[str, Series]]) -> list[Chart]:
    charts = []
    for gate, weights in gates.items():
        xs = sorted({samples for points in weights.values() for samples, _ in points})
        values = [[told.get(x) for x in xs] for told in map(dict, weights.values())]
        charts.append(
            Chart(
                f"{gate}, over the run",
                heat_over_rows(f"Weights of gate {gate} over the run", list(weights), xs, values),
            )
        )
    return charts


def _nested(run: Run, head: str) -> Gates:
    out: Gates = {}
    for key, points in run.below(head).items():
        level, gate, expert = key.split("/")
        out.setdefault(level, {}).setdefault(gate, {})[expert] = points
    return out


def _late(points: Series) -> float | None:
    """The mean over the last third of the rows; of few values, the last."""
    ends = thirds(points)
    return ends[1] if ends is not None else points[-1][1] if points else None


def _pair(pairs: dict[str, Series], a: str, b: str) -> float | None:
    return _late(pairs.get(f"{a}~{b}") or pairs.get(f"{b}~{a}") or [])


def _place(level: str) -> int:
    return int(level) if level.isdigit() else 0


def _last(points: Series) -> str:
    return f"{points[-1][1]:.3f}" if points else NOTHING
