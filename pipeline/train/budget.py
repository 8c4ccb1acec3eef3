"""The budgets of bad data, kept by all ranks together.

A rank whose step leaves out something new says so by one number in the step's one all-reduce. Where any rank did, all
exchange their pieces, so that each holds the same logs, sees the same day over its budget in the same step, and a
checkpoint has them without asking anybody. A step without news costs nothing more.
"""

from collections.abc import Iterable
from pathlib import Path

import torch.distributed as dist

from pipeline.data.manifest import Manifest
from pipeline.data.quarantine import LOG, Piece, QuarantineLog, left_out, read, written
from pipeline.storage import filesystem, reason
from pipeline.train.agreement import first_rank
from schemas.errors import InputError
from schemas.job import JobConfig


class Budget:
    """What a run has left out so far, alike on every rank."""

    def __init__(self, job: JobConfig, training: Manifest, evaluation: Manifest | None = None) -> None:
        bad = job.data.bad
        self._quarantine = job.data.quarantine
        self.training = QuarantineLog("train", bad, left_out(training))
        self.evaluation = QuarantineLog("eval", bad, left_out(evaluation) if evaluation else ())
        self.path = f"{job.output}/{LOG}"
        """Where the log is written."""

    @property
    def active(self) -> bool:
        """Whether there is a log: quarantine is on, or was when this run left something out."""
        return self._quarantine or bool(self.training.totals[0] or self.evaluation.totals[0])

    def content(self) -> bytes:
        """Both logs, as a file."""
        return written([self.training, self.evaluation])

    def restore(self, content: bytes) -> None:
        """Takes up the logs of a checkpoint."""
        for log in (self.training, self.evaluation):
            for piece in read(content, log.split):
                log.add(piece)

    @staticmethod
    def news(log: QuarantineLog, pieces: Iterable[Piece]) -> list[Piece]:
        """Those that the log does not know."""
        return [piece for piece in pieces if not log.knows(piece)]

    def agree(self, log: QuarantineLog, news: list[Piece]) -> None:
        """Takes in what any rank leaves out; every rank must call it, where one has news.

        Raises InputError on every rank alike where a day is over its budget, with the log written.
        """
        every: list[list[Piece]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(every, news)
        for pieces in every:
            for piece in pieces:
                log.add(piece)
        try:
            log.check_budget(self.path)
        except InputError:
            self.write()
            raise

    def write(self) -> None:
        """Rank 0 writes the log whole, in the place of the one before; every rank must call it."""
        if self.active:
            first_rank(self._write)

    def _write(self) -> None:
        content = self.content()
        try:
            if "://" in self.path:
                fs, remote = filesystem(self.path)
                fs.pipe_file(remote, content)
            else:
                path = Path(self.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{path.name}.draft")
                draft.write_bytes(content)
                draft.rename(path)
        except Exception as error:  # each driver has exceptions of its own
            raise InputError(
                f"{self.path}: cannot be written ({reason(error)}); free space or mend the rights"
            ) from error


def left_out_words(rows: int, groups: int) -> str:
    """As `12 rows, 1 row group`."""
    counts = ((rows, "row"), (groups, "row group"))
    return ", ".join(f"{count:,} {unit}{'s' if count != 1 else ''}" for count, unit in counts if count)
