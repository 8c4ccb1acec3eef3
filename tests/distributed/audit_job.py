"""The job with a record of what every rank trained, saved and loaded; for tests that stop it and start it again.

    python -m tests.distributed.audit_job launch [TORCHRUN FLAGS] CONFIG.yaml [key=value ...]

is `python -m jobs.launch` whose ranks run this module: jobs.train with a training step and checkpoints that write down
what they do, into a file a rank process under $AUDIT. $AUDIT_STEP_SECONDS and $AUDIT_SAVE_SECONDS make steps and saves
slow. `Audit` reads the records.
"""

import dataclasses
import functools
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

FOLDER, STEP_SECONDS, SAVE_SECONDS = "AUDIT", "AUDIT_STEP_SECONDS", "AUDIT_SAVE_SECONDS"


# ---- a rank


class Recorder:
    """Appends one JSON line an event, past every buffer: what a rank did before a kill is there."""

    def __init__(self) -> None:
        name = f"{time.time_ns()}-{os.environ['RANK']}of{os.environ['WORLD_SIZE']}-{os.getpid()}"
        self._file = os.open(Path(os.environ[FOLDER]) / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def __call__(self, **event: Any) -> None:
        os.write(self._file, (json.dumps(event) + "\n").encode())


def digest(model: Any, optimizer: Any) -> str:
    """The sum of all bit patterns of each tensor of the state, equal under any number of ranks; a collective."""
    import torch
    import torch.distributed as dist

    from tests.distributed.training import _shards

    def bits(tensor: Any) -> int:
        kind = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[tensor.element_size()]
        return int(tensor.detach().contiguous().reshape(-1).view(kind).to(torch.int64).sum())

    state = _shards({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    mine = {(name, shard.offsets): bits(shard.values) for name, shards in state.items() for shard in shards}
    every: list[dict[tuple[str, tuple[int, ...]], int]] = [{}] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    total: Counter[str] = Counter()
    for (name, _), value in {key: value for theirs in every for key, value in theirs.items()}.items():
        total[name] += value
    return json.dumps(sorted(total.items()))


def rank(argv: list[str]) -> None:
    """jobs.train.main, recorded."""
    import jobs.train
    from pipeline.train.dist import quiet_libraries

    quiet_libraries()
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    import pipeline.train.loop
    from pipeline.train.checkpoint import Checkpoints

    record = Recorder()
    pause = functools.partial(time.sleep, float(os.environ.get(SAVE_SECONDS, "0")))

    class Step(pipeline.train.loop.TrainStep):  # type: ignore[name-defined,misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            attempt = [time.time_ns()]
            dist.broadcast_object_list(attempt, src=0)
            record(attempt=attempt[0], world=dist.get_world_size())

        def __call__(self, batches: Any, step: int) -> Any:
            output = super().__call__(batches, step)
            record(step=step, epoch=output.batch.epoch, rows=output.batch.row_ids_B.tolist())
            time.sleep(float(os.environ.get(STEP_SECONDS, "0")))
            return output

    save, write, load = Checkpoints.save, dcp.save, pipeline.train.loop.load_training

    def recorded_save(self: Any, model: Any, optimizer: Any, progress: Any, *args: Any, **more: Any) -> Any:
        record(saving=progress.step, digest=digest(model, optimizer))
        path = save(self, model, optimizer, progress, *args, **more)
        record(saved=progress.step)
        return path

    def slow_write(*args: Any, **more: Any) -> Any:
        pause()
        written = write(*args, **more)
        pause()
        return written

    def recorded_load(commit: Any, model: Any, optimizer: Any, *args: Any, **more: Any) -> Any:
        loaded = load(commit, model, optimizer, *args, **more)
        record(loaded=commit.progress.step, digest=digest(model, optimizer))
        return loaded

    setattr(pipeline.train.loop, "TrainStep", Step)  # noqa: B010
    setattr(Checkpoints, "save", recorded_save)  # noqa: B010
    setattr(dcp, "save", slow_write)  # noqa: B010
    setattr(pipeline.train.loop, "load_training", recorded_load)  # noqa: B010
    jobs.train.main(argv)


# ---- what they wrote


@dataclasses.dataclass
class Attempt:
    """One start of the ranks that came as far as its first step."""

    id: int
    world: int
    loaded: int
    """Step of the checkpoint it went on from, 0 for none."""
    rows: dict[int, list[tuple[int, int]]]
    """By step, the (epoch, row id) of all ranks."""
    saving: list[int]
    """Steps whose save began, in order."""
    saved: list[int]
    """Steps whose save ended."""


class Audit:
    """The records under a folder."""

    def __init__(self, folder: Path) -> None:
        self.attempts: list[Attempt] = []
        self.digests: dict[int, set[str]] = {}
        """Of the state, by step, as it was when its save began; a set, since a step may be trained again."""
        self.loads: list[tuple[int, str]] = []
        """Step and digest of every load."""
        found: dict[int, Attempt] = {}
        for path in sorted(folder.iterdir()):
            self._read(path, found)
        self.attempts = sorted(found.values(), key=lambda attempt: attempt.id)

    def _read(self, path: Path, found: dict[int, Attempt]) -> None:
        first = "-0of" in path.name
        loaded, attempt = 0, None
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if "loaded" in event:
                loaded = event["loaded"]
                self.loads.append((loaded, event["digest"]))
            elif "attempt" in event:
                attempt = found.setdefault(
                    event["attempt"], Attempt(event["attempt"], event["world"], loaded, {}, [], [])
                )
                assert attempt.loaded == loaded, "ranks of one attempt went on from unlike checkpoints"
            elif "step" in event:
                assert attempt is not None
                rows = [(event["epoch"], row) for row in event["rows"]]
                attempt.rows.setdefault(event["step"], []).extend(rows)
            elif "saving" in event:
                assert attempt is not None
                self.digests.setdefault(event["saving"], set()).add(event["digest"])
                if first:
                    attempt.saving.append(event["saving"])
            elif "saved" in event and first:
                assert attempt is not None
                attempt.saved.append(event["saved"])

    def kept(self) -> dict[int, list[tuple[int, int]]]:
        """The rows of each step that are in the weights: what a later attempt trained again, the kill had undone."""
        kept: dict[int, list[tuple[int, int]]] = {}
        for attempt in self.attempts:
            begin = min(attempt.rows, default=attempt.loaded)
            assert begin == attempt.loaded, f"went on at step {begin} from a checkpoint of step {attempt.loaded}"
            assert set(range(begin)) <= kept.keys(), f"step {begin} was loaded and never trained"
            kept = {step: rows for step, rows in kept.items() if step < begin} | attempt.rows
        return kept

    def check(self, rows: int, epochs: int, steps: int) -> None:
        """Every row once an epoch, in `steps` steps; every state that was loaded is one that was saved, bit for bit."""
        kept = self.kept()
        assert sorted(kept) == list(range(steps))
        trained = Counter(row for step in kept.values() for row in step)
        assert trained == Counter((epoch, row) for epoch in range(epochs) for row in range(rows))
        for step, state in self.loads:
            assert state in self.digests[step], f"what was loaded as step {step} was never saved as it"


def audited(argv: list[str]) -> list[str]:
    """The launcher's command line."""
    return [sys.executable, "-m", "tests.distributed.audit_job", "launch", *argv]


def main(argv: list[str]) -> None:
    """The launcher or a rank."""
    from jobs.failure import leave, reported

    if argv[:1] != ["launch"]:
        leave(lambda: rank(argv))
    import jobs.launch

    train = jobs.launch.RANKED["train"]
    jobs.launch.RANKED["train"] = dataclasses.replace(train, module="tests.distributed.audit_job")
    with reported():
        jobs.launch.main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
