"""What a person reads in the terminal: the progress line and the closing table."""

from pipeline.data.holdout import Part
from pipeline.metrics import BinaryMetrics, Metrics
from pipeline.model import NetworkSize
from pipeline.report.text import aligned, duration
from pipeline.train.budget import left_out_words
from pipeline.train.checkpoint import Saved
from pipeline.train.window import Report

UNDEFINED = "undefined"


def progress_line(report: Report) -> str:
    """Step, rows done of all, rows/s, time left, and each task's windowed AUC, or MSE of a regression task."""
    progress = report.progress
    share = report.gone_through / max(report.total_rows, 1)
    aucs = "  ".join(f"{task} {_number(m.auc, '.4f')}" for task, m in report.metrics.own.items())
    mses = "  ".join(f"{task} {_number(m.mse, '.4g')}" for task, m in report.metrics.regression.items())
    broken = ", ".join(f"{count:,} {task}" for task, count in report.broken.items())
    return (
        f"step {progress.step:>6}  {report.gone_through:>11,} of {report.total_rows:,} rows ({share:4.0%})  "
        f"{report.rows_per_second:>9,.0f} rows/s  {duration(report.seconds_left):>6} left"
        + (f"  AUC {aucs}" if aucs else "")
        + (f"  MSE {mses}" if mses else "")
        + (f"  weights {_weights(report)}" if report.balanced else "")
        + (f"  penalty {report.penalty:.3g}" if report.penalty is not None else "")
        + (f"  funnel broken: {broken}" if broken else "")
        + (f"  held out: {report.held_out:,}" if report.held_out else "")
        + (f"  quarantined: {left_out_words(*report.left_out)}" if any(report.left_out) else "")
    )


def _weights(report: Report) -> str:
    weights = "  ".join(f"{task} {weight:.3g}" for task, weight in report.weights.items())
    return weights + (f"  least cosine {report.cosine:.2f}" if report.cosine is not None else "")


def checkpoint_line(saved: Saved) -> str:
    """How long training stood still for a checkpoint, when it was committed, and its size."""
    return (
        f"checkpoint step {saved.step}: blocked {saved.blocked_seconds:.2f} s, "
        f"written in {saved.written_seconds:.2f} s, {saved.bytes / 1e6:,.1f} MB"
    )


def evaluation_line(done: int, total: int, rows_per_second: float, part: Part = "all") -> str:
    """Rows evaluated of all, rows/s, time left; where only a `part` of them is evaluated, rows gone through."""
    verb = "evaluated " if part == "all" else "gone through"
    left = duration((total - done) / max(rows_per_second, 1e-9))
    return f"{verb} {done:>11,} of {total:,} rows ({done / total:4.0%})  {rows_per_second:>9,.0f} rows/s  {left} left"


def size_line(size: NetworkSize) -> str:
    """Parameters of the dense network and of the tables, its FLOPs a row, and the widths of its layers."""
    widths = ", ".join(f"{key} {sizes}" for key, sizes in size.widths.items())
    return (
        f"network {size.dense_parameters:,} parameters ({widths}), {size.flops_per_row:,} FLOPs a row forward; "
        f"tables {size.table_parameters:,} parameters"
    )


def metrics_table(metrics: Metrics, attainable: dict[str, float]) -> str:
    """A row a task on its own space and a row a joint probability over all exposures; regression tasks below.

    `attainable` holds the best AUC that the declared truth allows, by row name; where it is given, the table says how
    much of the lift over .5 was reached.
    """
    tables = [_binary_table(metrics, attainable)] if metrics.own else []
    return "\n\n".join(tables + ([_regression_table(metrics)] if metrics.regression else []))


def _binary_table(metrics: Metrics, attainable: dict[str, float]) -> str:
    rows = {task: m for task, m in metrics.own.items()}
    rows |= {f"{task} (joint)": m for task, m in metrics.joint.items()}
    head = ["task", "rows", "positives", "AUC", "95% interval", "log loss", "NE", "calibration"]
    lines = [head + (["attainable", "of lift"] if attainable else [])]
    for name, m in rows.items():
        interval = UNDEFINED if m.auc_low is None else f"{m.auc_low:.4f} - {m.auc_high:.4f}"
        line = [name, f"{m.rows:,}", f"{m.positives:,}", _number(m.auc, ".4f"), interval]
        line += [_number(m.log_loss, ".4f"), _number(m.ne, ".4f"), _number(m.calibration, ".3f")]
        if attainable:
            line += _reached(m, attainable.get(name))
        lines.append(line)
    return aligned(lines)


def _regression_table(metrics: Metrics) -> str:
    lines = [["task", "rows", "MSE", "95% interval", "MAE", "R2"]]
    for name, m in metrics.regression.items():
        interval = UNDEFINED if m.mse_low is None else f"{m.mse_low:.4g} - {m.mse_high:.4g}"
        lines.append([name, f"{m.rows:,}", _number(m.mse, ".4g"), interval])
        lines[-1] += [_number(m.mae, ".4g"), _number(m.r2, ".4f")]
    return aligned(lines)


def _reached(m: BinaryMetrics, best: float | None) -> list[str]:
    if best is None:
        return ["", ""]
    return [f"{best:.4f}", UNDEFINED if m.auc is None else f"{(m.auc - 0.5) / (best - 0.5):.1%}"]


def _number(value: float | None, form: str) -> str:
    return UNDEFINED if value is None else format(value, form)
