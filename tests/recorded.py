"""Records of runs and of days as training and daily retraining leave them, made without training."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

from pipeline.daily.ledger import Ledger, skip
from pipeline.gate.record import Comparison, Verdict
from pipeline.journal import Journal, Outcome
from pipeline.records import Records
from tests.logs import small_job

TASKS = ("click", "cart", "order")
EXPERTS = ("click.0", "cart.0", "order.0", "shared.0")
WINDOWS = 24
ROWS = 500
"""Rows a window."""


def about(name: str, output: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """What an attempt tells of itself."""
    config = small_job("log", output, {"tasks.fav": ..., **(changes or {})}).model_dump(mode="json", by_alias=True)
    size = {"dense_parameters": 4321, "table_parameters": 98765, "flops_per_row": 9000, "widths": {"expert": [8]}}
    return config | {"name": name, "world_size": 2, "size": size, "git": "0123456789abcdef"}


def auc(task: str, window: int, fall: float = 0.0) -> float:
    """Rises to its end; `fall` is what the last task loses on the way."""
    rise = 0.2 * (1 - math.exp(-window / 6))
    return round(0.52 + rise * (1 - 0.2 * TASKS.index(task)) - (fall * window / WINDOWS if task == "order" else 0), 6)


def values(window: int, fall: float = 0.0, telemetry: bool = True, own: float = 0.6) -> dict[str, float]:
    """A progress line's keys. `own` is the weight of each task's gate on its own expert."""
    out: dict[str, float] = {"train/rows_per_second": 20_000.0 + 100 * (window % 5), "train/dense_lr": 1e-3}
    for n, task in enumerate(TASKS):
        area = auc(task, window, fall)
        out |= {f"train/{task}/auc": area, f"train/{task}/rows": 500.0, f"train/{task}/positives": 100.0}
        out |= {f"train/{task}/log_loss": 0.69 - 0.005 * window, f"train/{task}/loss": 0.69 - 0.005 * window}
        out[f"train/{task}/weight"] = 1.0
        if n:
            out[f"train/{task}/joint_auc"] = area + 0.05
    out |= {"data/unknown/user": 0.01 * window, "data/unknown/city": 0.0}
    out |= {"data/quarantined_rows": 0.0, "data/quarantined_row_groups": 0.0}
    return out | (_telemetry(window, own) if telemetry else {})


def _telemetry(window: int, own: float) -> dict[str, float]:
    out: dict[str, float] = {}
    load = dict.fromkeys(EXPERTS, 0.0)
    for gate in (*TASKS, "shared"):
        weights = dict.fromkeys(EXPERTS, (1 - own) / (len(EXPERTS) - 1))
        weights[f"{gate}.0"] = own
        for expert, weight in weights.items():
            out[f"gates/1/{gate}/{expert}"] = weight
            load[expert] += weight / 4
        total = -sum(w * math.log(w) for w in weights.values() if w)
        out[f"gate_entropy/1/{gate}"] = total / math.log(len(EXPERTS))
    out |= {f"experts/1/load/{expert}": share for expert, share in load.items()}
    for a, b in (("click.0", "cart.0"), ("click.0", "order.0"), ("cart.0", "order.0")):
        out[f"experts/1/similarity/{a}~{b}"] = 0.3
    for task in TASKS:
        out[f"gradients/{task}/norm"] = 0.5 / (1 + window)
    out |= {
        "gradients/cosine/click~cart": 0.4,
        "gradients/cosine/click~order": -0.3,
        "gradients/cosine/cart~order": 0.0,
    }
    out |= {"embeddings/user/norm": 0.1 + 0.01 * window, "embeddings/city/norm": 0.2}
    out |= {"train/data_wait_share": 0.3, "data/decode_share": 0.5, "memory/rss_gb": 1.5, "memory/cuda_gb": 0.0}
    return out


def metrics(fall: float = 0.0) -> dict[str, Any]:
    """Of the evaluation, as result.json has them."""
    out: dict[str, Any] = {}
    for n, task in enumerate(TASKS):
        area = auc(task, WINDOWS, fall)
        own = {"rows": 4000, "positives": 900, "auc": area, "auc_low": area - 0.02, "auc_high": area + 0.02}
        own |= {"log_loss": 0.5, "ne": 0.9, "calibration": 1.25 if task == "order" else 1.0}
        out[task] = {"kind": "binary", "own": own}
        if n:
            out[task]["joint"] = own | {"auc": area + 0.05, "auc_low": area + 0.03, "auc_high": area + 0.07}
    return out


def curves() -> dict[str, Any]:
    """Of the evaluation, as the journal has them."""
    points = [round(0.02 + 0.045 * n, 3) for n in range(20)]
    calibration = {"predicted": points, "observed": [min(1.0, p * 1.1) for p in points], "rows": [200] * 20}
    edges = [n / 50 for n in range(51)]
    scores = {"edges": edges, "positives": list(range(50)), "negatives": list(range(50, 0, -1))}
    return {name: {"calibration": calibration, "scores": scores} for name in (*TASKS, "cart (joint)", "order (joint)")}


def made_run(
    folder: Path,
    name: str = "small",
    outcome: Outcome | None = "finished",
    why: str = "",
    *,
    fall: float = 0.0,
    telemetry: bool = True,
    own: float = 0.6,
    restart_at: int | None = None,
    changes: dict[str, Any] | None = None,
    evaluated: bool = True,
) -> Path:
    """A run's folder. `restart_at`: the window from which a second attempt went on, after a kill two windows later."""
    folder.mkdir(parents=True, exist_ok=True)
    told = about(name, folder, changes)
    journal = Journal(folder, name, "train", 0, told)
    for window in range(1, WINDOWS + 1 if restart_at is None else restart_at + 3):
        journal.values(window * ROWS, values(window, fall, telemetry, own))
    if restart_at is not None:
        journal = Journal(folder, name, "train", restart_at * ROWS, told)
        for window in range(restart_at + 1, WINDOWS + 1):
            journal.values(window * ROWS, values(window, fall, telemetry, own))
    journal.values(WINDOWS * ROWS, {"train/checkpoint_blocked_seconds": 0.25})
    if outcome == "finished":
        end = WINDOWS * ROWS
        tasks = metrics(fall) if evaluated else {}
        for task, spaces in tasks.items():
            flat = {f"eval/{task}/{key}": float(value) for key, value in spaces["own"].items()}
            flat |= {f"eval/{task}/joint_{key}": float(value) for key, value in spaces.get("joint", {}).items()}
            journal.values(end, flat)
        if evaluated and telemetry:
            journal.curves(end, "eval", curves())
        journal.values(end, {"data/late_files": 0.0, "data/drifted_files": 0.0})
        result = {"format": 1, "name": name, "arch": "ple", "step": 375, "samples": end, "ranks": 2, "device": "cpu"}
        result |= {"precision": "fp32", "rows_per_second": 21_000.0, "seconds": 75.0, "rss_bytes": 3 << 29}
        result |= {"cuda_bytes": 0, "held_out": 0, **told["size"], "tasks": tasks}
        (folder / "result.json").write_text(json.dumps(result))
    if outcome is not None:
        journal.end(outcome, why)
    return folder


def made_week(root: Path) -> Path:
    """Seven days of retraining: the third refused by the gate, the fifth skipped, the last failed in its checks.

    The fourth trains on the third's rows as well; a file of the fourth came late.
    """
    days = [f"2026-01-0{n}" for n in range(1, 8)]
    champion: str | None = None
    open_days: list[str] = []
    for number, day in enumerate(days, 1):
        if number == 5:
            skip(str(root), datetime.date.fromisoformat(day), "half of the log was lost")
            continue
        refused = number == 3
        ledger = Ledger(str(root), datetime.date.fromisoformat(day))
        journal = Journal(root, "ranker", "daily", 0, {"day": day, "attempt": 1})
        open_days.append(day)
        span = {"champion": champion, "promotion": None, "days": list(open_days), "skipped": []}
        ledger.commit(
            "wait", {"files": 4, "rows": 4000 + 100 * number, "waited_seconds": 0.0, "span": span, "seconds": 1.0}
        )
        if number == 7:
            told = "  label_rate:order: order: rate .12 where the recent days have .05 (daily.checks.label_change)"
            journal.alert("ranker 2026-01-07: failed validation", told, "ERROR")
            ledger.note("alert", {"alert": "failed_validation", "text": told, "told": []})
            journal.end("failed", f"failed validation: {told}")
            continue
        _trained_day(root, ledger, day, number, champion, refused)
        if refused:
            reason = (
                "order (own space, all held-out rows): AUC 0.6100 -> 0.5900, a fall of 0.0200; meanwhile click gained"
            )
            ledger.note("alert", {"alert": "refused_gate", "text": reason, "told": []})
            journal.end("refused", reason)
        else:
            promotion = {"number": number - (number > 3) - (number > 5), "model": day, "kind": "promotion"}
            promotion |= {"because": "blessed", "at": "2026-01-08T00:00:00+00:00", "before": champion}
            Records(f"{root}/registry/promotions").create(f"{promotion['number']:08d}", promotion)
            champion, open_days = day, []
            journal.end("finished")
    return root


def _trained_day(root: Path, ledger: Ledger, day: str, number: int, champion: str | None, refused: bool) -> None:
    scored = metrics()
    late = {"2026-01-03": ["dt=2026-01-03/part-9.parquet"]} if number == 4 else {}
    rates = {task: {"rows": 4000, "mean": 0.3 / (1 + n), "std": 0.4} for n, task in enumerate(TASKS)}
    unknown = {"user": {"rows": 4000, "mean": 0.01 * number, "std": 0.1}}
    ledger.commit("validate", {"accepted": [], "statistics": {"rows": 4000, "tasks": rates, "unknown": unknown}})
    ledger.commit("freeze", {"rows": 4000, "first": day, "late": late, "late_trained": {}, "seconds": 1.0})
    ledger.commit("vocabulary", {"tables": {}})
    ledger.commit("score", {"champion": champion, "tasks": scored if champion else {}})
    made_run(root / "days" / day / "challenger", f"ranker.{day}", evaluated=False)
    ledger.commit("train", {"step": 375, "samples": 12_000, "accepted": [], "seconds": 60.0})
    held = {"challenger": metrics(0.05 * refused)} | ({"champion": scored} if champion else {})
    ledger.commit("evaluate", held)
    compared = [] if champion is None else _comparisons(refused)
    reasons = [
        "order (own space, all held-out rows): AUC 0.6100 -> 0.5900, a fall of 0.0200; meanwhile click gained"
    ] * refused
    verdict = Verdict(not refused, reasons, compared, [], [], 2.9, 0.95, 1000)
    tree = {"blessed": verdict.blessed, **verdict.to_json(), "about": {"day": day}}
    (root / "days" / day / "verdict.json").write_text(json.dumps(tree))
    ledger.commit("gate", {"blessed": not refused, "reasons": reasons, "verdict": "verdict.json"})
    ledger.commit("promote", {"promoted": not refused, "number": number})
    ledger.commit("retention", {"removed": []})


def _comparisons(refused: bool) -> list[Comparison]:
    out = []
    for task in TASKS:
        for space in ("own", "joint")[: 1 + (task != "click")]:
            pays = refused and task == "order" and space == "own"
            delta, verdict = (0.02, "worse") if pays else (-0.004, "better" if task == "click" else "level")
            out.append(
                Comparison(
                    task, space, "all", "auc", 1000, 200, 0.61, 0.61 - delta, delta, 0.002, 0.002, delta - 0.006,
                    delta + 0.006, 0.005, verdict,
                )
            )  # fmt: skip
    return out
