"""The steps of a day that score, train, judge and promote models."""

import datetime
from typing import Any

from pipeline.daily.checks import check_champion
from pipeline.daily.data_steps import manifest_of, refuse
from pipeline.daily.documents import commit_of, scoring_job, to_yaml, training_job
from pipeline.daily.ledger import Ledger, days, skipped
from pipeline.daily.place import VERDICT, latest, put
from pipeline.daily.work import DayEndedError, Facts, Work
from pipeline.predictions import read_predictions, scored
from pipeline.registry import Model
from pipeline.train.checkpoint_store import MANIFEST, CheckpointStore, note
from schemas.identity import fingerprint
from schemas.job import JobConfig


def score(work: Work) -> Facts:
    """The champion on all rows of the day, before anything has trained on it."""
    champion = work.champion()
    if champion is None:
        return {"champion": None, "tasks": {}}
    models = {"champion": commit_of(champion).path}
    job = scoring_job(work.job, work.place, models, "champion", held=False, predictions=False)
    tasks = _scored(work, job)["champion"]
    for name, told in tasks.items():
        work.say(f"{name}: {_words(told['own'])}")
    return {"champion": champion.name, "tasks": tasks}


def train(work: Work) -> Facts:
    """The challenger, from the champion; what the champion's scores say of the day is looked at before."""
    left_out = skipped(work.place.root)
    recent = [
        told["tasks"]
        for day in days(work.place.root)
        if day < work.day
        and day not in left_out
        and (told := Ledger(work.place.root, day, latest(work.place.root, day).attempt).done().get("score"))
        and told["tasks"]
    ]
    checks, findings = work.daily.checks, []
    if work.done["score"]["tasks"]:
        recent = recent[-checks.recent_days :]
        findings = check_champion(work.job, checks, work.done["score"]["tasks"], recent, work.accepted)
        refuse(work, findings)
    from pipeline.tracking import git_revision  # here: it brings torch along

    first = datetime.date.fromisoformat(work.done["freeze"]["first"])
    job = training_job(work.grown_job(), work.place, first, work.champion())
    _run(work, job, "train")
    store = CheckpointStore(f"{job.output}/checkpoints")
    commit = store.newest()
    assert commit is not None, job.output
    config = job.model_dump(mode="json", by_alias=True)
    return {
        "checkpoint": commit.path,
        "sha256": note(store.read(commit.name, MANIFEST)).sha256,
        "step": commit.progress.step,
        "samples": commit.progress.samples,
        "git": git_revision(),
        "config": config,
        "config_fingerprint": fingerprint(config),
        "accepted": [finding.words for finding in findings],
    }


def evaluate(work: Work) -> Facts:
    """Champion and challenger on the same rows, which neither has trained on."""
    models = {"challenger": work.done["train"]["checkpoint"]}
    champion = work.champion()
    if champion is not None:
        models["champion"] = commit_of(champion).path
    job = scoring_job(work.grown_job(), work.place, models, "held", held=True, predictions=True)
    return _scored(work, job)


def gate(work: Work) -> Facts:
    """The verdict, and its file."""
    from pipeline.gate.rows import column_of_rows
    from pipeline.gate.slices import slice_masks
    from pipeline.gate.verdict import judge, lines, write_verdict

    job, settings, manifest = work.job, work.daily.gate, manifest_of(work, work.place)
    held = work.place.url("held")
    challenger = read_predictions(held, "challenger")
    champion = None if work.span.champion is None else read_predictions(held, "champion")
    masks = slice_masks(job, settings, manifest, work.day, challenger.row_N, work.say)
    assert job.data.holdout is not None
    user_N = column_of_rows(job, manifest, job.data.holdout.column, challenger.row_N)
    old = work.champion()
    trained = None if old is None else JobConfig.model_validate(old.config)  # what its tasks are, and their spaces
    verdict = judge(job, settings, champion, challenger, masks, user_N, work.day.toordinal(), champion_job=trained)
    about = {
        "day": str(work.day),
        "champion": work.span.champion,
        "challenger": work.place.key,
        "rows": len(challenger.row_N),
        "manifest": manifest.fingerprint,
    }
    write_verdict(work.place.folder, verdict, about)
    for line in lines(verdict):
        work.say(line)
    return {"blessed": verdict.blessed, "reasons": verdict.reasons, "verdict": work.place.url(VERDICT)}


def promote(work: Work) -> Facts:
    """Registers the challenger, and makes it champion where it is blessed."""
    champion, told = work.champion(), work.done["train"]
    span, verdict = work.span, work.done["gate"]
    model = Model(
        name=work.place.key,
        checkpoint=told["checkpoint"],
        checkpoint_sha256=told["sha256"],
        parent=None if champion is None else champion.name,
        days=span.days,
        skipped=span.skipped,
        manifest=work.done["freeze"]["manifest"],
        config=told["config"],
        config_fingerprint=told["config_fingerprint"],
        git=told["git"],
        metrics=work.done["evaluate"]["challenger"],
        verdict=verdict["verdict"],
    )
    work.registry.register(model)
    if not verdict["blessed"]:
        work.say(f"{model.name} is refused; champion stays {span.champion or 'nobody'}")
        return {"promoted": False}
    because = "no champion before" if champion is None else f"blessed against {champion.name}"
    done = work.registry.promote(model.name, because, expected=span.promotion)
    work.say(f"{model.name} is champion (promotion {done.number})")
    return {"promoted": True, "number": done.number}


def retention(work: Work) -> Facts:
    """Removes the weights of models that nobody goes back to."""
    keep = work.daily.retention
    removed = work.registry.retire(keep.champions, keep.challengers)
    if removed:
        work.say(f"weights removed of {', '.join(removed)}")
    return {"removed": removed}


def _scored(work: Work, job: JobConfig) -> dict[str, Any]:
    """Scores the job's models; every task's metrics by model."""
    assert job.score is not None
    _run(work, job, "score")
    out = {}
    for name in job.score.models:
        told = scored(job.score.out, name)
        assert told is not None, name
        out[name] = told["tasks"]
    return out


def _run(work: Work, job: JobConfig, kind: str) -> None:
    document = to_yaml(job)
    put(f"{work.place.folder}/{job.output.rsplit('/', 1)[-1]}.yaml", document)
    meeting = work.leader.announce(kind, document) if work.leader else ()
    code = work.runner.run(kind, document, meeting)
    if code != 0:
        raise DayEndedError(
            code if code in (1, 2) else 1,
            "failed_run",
            f"{job.name} ended with exit code {code}; its own message stands above. The same command goes on. Where "
            "that message asks for another output, begin the day anew with --again: `output` itself holds the champion",
        )


def _words(told: dict[str, Any]) -> str:
    if "mse" in told:
        return f"{told['rows']:,} rows, MSE {told['mse']:.4f}" if told["mse"] is not None else "no rows"
    auc, loss, ratio = (told[key] for key in ("auc", "log_loss", "calibration"))
    numbers = [f"AUC {auc:.4f}" if auc is not None else "AUC undefined"]
    numbers += [f"log loss {loss:.4f}"] if loss is not None else []
    numbers += [f"calibration {ratio:.3f}"] if ratio is not None else []
    return f"{told['rows']:,} rows, {', '.join(numbers)}"
