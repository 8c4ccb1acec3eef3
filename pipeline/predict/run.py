"""A prediction on ranks: every rank its own units, the embeddings exchanged step by step, each file written once.

On a CPU the numbers are the same bits at any number of ranks and after a resume: the dense network meets the same rows
together, since what is cut where depends on the file alone.

Shapes: B rows of a step, N rows of a unit, T tasks.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.collate import Collator
from pipeline.data.quarantine import Piece
from pipeline.data.rows import Part
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.embedding.sharding import shard
from pipeline.model import RankingModel
from pipeline.predict.bad import joined
from pipeline.predict.output import FORMAT, QUARANTINE, SUMMARY, Output, output_schema, unit_table
from pipeline.predict.plan import Prediction
from pipeline.predict.schedule import Schedule
from pipeline.predict.stream import Chunk, Chunks
from pipeline.report.text import duration
from pipeline.train.agreement import check_agreement, first_rank, sole_writer
from pipeline.train.dist import Ranks
from pipeline.train.restore import load_model
from pipeline.train.stop import Stop, Stopped
from schemas.errors import InputError
from schemas.identity import MAY_CHANGE

ROWS = 512
"""Rows that the dense network meets together, on a CPU: as pipeline/train/lane_chunks.py."""
STOP_EVERY = 8
"""Steps between looks at whether to stop, and at what other ranks have done."""
SECONDS_BETWEEN_LINES = 10.0
News = list[tuple[int, list[Piece]]]
"""Units that a rank has written, each with its bad rows."""


def run_prediction(found: Prediction, ranks: Ranks) -> None:
    """Scores what is left; rank 0 prints. Every rank must call it.

    Raises on every rank Stopped, once any of them was told to stop, and InputError over the budget of bad data.
    """

    def say(text: str) -> None:
        if ranks.first:
            print(text, flush=True)

    with sole_writer(found.config.out, "predict.out"):
        own = found.job
        settings = own.model_dump(mode="json", by_alias=True)
        check_agreement(
            {
                "configuration": {key: value for key, value in settings.items() if key not in MAY_CHANGE},
                "list of input files": found.fingerprint(),
                "list of vocabulary values": fingerprints(own),
            }
        )
        where = f"{ranks.world} rank{'s' if ranks.world > 1 else ''} ({ranks.device.type})"
        step = found.commit.progress.step
        say(f"{own.model.arch} of step {step:,} ({found.commit.path}) on {where}")
        for note in found.notes:
            say(note)
        files = f"{len(found.incomplete):,} of {len(found.files):,} files"
        say(f"predicting {found.rows:,} rows, {files} ({len(found.done):,} are there already)")
        _Run(found, ranks, say).all()


class _Run:
    """One rank's part."""

    def __init__(self, found: Prediction, ranks: Ranks, say: Callable[[str], None]) -> None:
        self.found, self.ranks, self.say = found, ranks, say
        self.output = Output(found.config.out)
        self.schedule = Schedule(found.units, ranks.world)
        self.bad = found.bad_rows()
        self.schemas = {at: output_schema(found.job, found.kept(at)) for at in found.incomplete}
        self.left = {at: 0 for at in found.incomplete}
        """Units that are missing, by file that is not there yet."""
        for at, *_ in found.units:
            self.left[at] += 1

    def all(self) -> None:
        """Everything from the model to the summary."""
        own = self.found.job
        first_rank(self._begin)
        sharded = shard(RankingModel(own), own, self.ranks.device)
        load_model(self.found.commit, sharded)
        sharded.eval()
        for at in [at for at, left in self.left.items() if not left]:  # cut short before it was put together
            self._whole(at)
        self._steps(sharded.module)
        dist.barrier()
        first_rank(self._end)

    def _begin(self) -> None:
        found = self.found
        self.output.remove_small(SUMMARY)
        units = {at: found.files[at].units() for at in found.incomplete}
        parts = {self.output.part(found.about[at], found.files[at], unit) for at, own in units.items() for unit in own}
        self.output.remove_parts(keep=parts)

    @torch.no_grad()
    def _steps(self, module: RankingModel) -> None:
        schedule, stop = self.schedule, self.ranks.stop
        stop.defer()
        collator = Collator(self.found.job)
        news: News = []
        unit = _Unit()
        began = told = time.perf_counter()
        with Chunks(self.found, schedule.shares[self.ranks.rank]) as chunks:
            parts = _cut(iter(chunks), schedule.sizes_RS[self.ranks.rank].tolist())
            for number in range(schedule.steps):
                part = next(parts)
                batch = collator([part[1]] if part else [], schedule.padded_S[number], 0, 0).to(self.ranks.device)
                x = module.inputs(batch)
                if part is not None:
                    unit.add(part[0], self._logits(module, x))
                    if unit.complete:
                        news.append(self._written(unit))
                        unit = _Unit()
                if number % STOP_EVERY == STOP_EVERY - 1 or number == schedule.steps - 1:
                    self._look_round(news, "while predicting")
                    news = []
                if self.ranks.first and time.perf_counter() - told > SECONDS_BETWEEN_LINES:
                    told = time.perf_counter()
                    self._tell(schedule.done_S[number], told - began)

    def _logits(self, module: RankingModel, x: Tensor) -> Tensor:
        """logits_BT on the CPU."""
        if x.device.type != "cpu":
            return module.dense.logits(x).cpu()
        # each piece in memory of its own: how it lies there may round too
        pieces = [module.dense.logits(x[begin : begin + ROWS].clone()) for begin in range(0, len(x), ROWS)]
        return torch.cat(pieces)

    def _written(self, unit: "_Unit") -> tuple[int, list[Piece]]:
        """Writes a unit: a file whole where it has no other, else a part of it."""
        found, chunks = self.found, unit.chunks
        number = chunks[0].unit
        at, group, begin, end = found.units[number]
        file = found.files[at]
        logit_NT = torch.cat(unit.logits).numpy()
        bad_N = np.concatenate([chunk.bad_N for chunk in chunks])
        if not np.isfinite(logit_NT[~bad_N]).all():
            row = int(np.argmax(~np.isfinite(logit_NT).all(axis=1) & ~bad_N))
            raise InputError(
                f"{file.path}, row group {group}, row {begin + row}: the model's output is not finite; see whether "
                "a feature holds numbers far outside of those it was trained on"
            )
        columns = [chunk.column_N for chunk in chunks if chunk.column_N is not None]
        table = unit_table(
            found.job,
            self.schemas[at],
            [chunk.kept for chunk in chunks],
            file.group(group).first_row + begin,
            logit_NT,
            bad_N,
            np.concatenate(columns) if columns else None,
        )
        bad = joined(piece for chunk in chunks for piece in chunk.bad)
        if len(list(file.units())) == 1:
            self.output.write(file, self.schemas[at], found.about[at], bad, [table])
        else:
            self.output.write_part(self.output.part(found.about[at], file, (group, begin, end)), table, bad)
        return number, bad

    def _look_round(self, news: News, where: str) -> None:
        """Raises on all ranks alike where one was told to stop, or too many rows are bad; every rank must call it."""
        counts = torch.tensor([*self.ranks.stop.signals(), float(len(news))], device=self.ranks.device)
        dist.all_reduce(counts)
        *stops, some = counts.tolist()
        if some:
            every: list[News] = [[] for _ in range(self.ranks.world)]
            dist.all_gather_object(every, news)
            for number, bad in (each for theirs in every for each in theirs):
                at = self.found.units[number][0]
                self.left[at] -= 1
                self.bad.add(bad)
                if not self.left[at]:
                    self._whole(at)
            self.bad.check_budget()
        if why := Stop.agreed(stops):
            raise Stopped(why, f"stopped by {why} {where}; the same command goes on from there")

    def _whole(self, at: int) -> None:
        """Puts a file together from its parts, on one rank; a file of one unit or none is there, or empty."""
        file, about = self.found.files[at], self.found.about[at]
        units = list(file.units())
        if at % self.ranks.world != self.ranks.rank or len(units) == 1:
            return
        names = [self.output.part(about, file, unit) for unit in units]
        bad = joined(piece for name in names for piece in self.output.bad_of_part(name))
        tables = (self.output.read_part(name)[0] for name in names)
        self.output.write(file, self.schemas[at], about, bad, tables)

    def _end(self) -> None:
        """On rank 0: the summary, after all that it speaks of."""
        found, output = self.found, self.output
        output.remove_parts(keep=set())
        lines = self.bad.lines()
        if lines:
            output.write_small(QUARANTINE, "".join(f"{line}\n" for line in lines))
        else:
            output.remove_small(QUARANTINE)
        strays = output.strays({file.name for file in found.files})
        rows = sum(file.rows for file in found.files)
        content = {
            "format": FORMAT,
            "checkpoint": found.commit.path,
            "manifest_sha256": found.manifest_sha256,
            "step": found.commit.progress.step,
            "files": len(found.files),
            "rows": rows,
            "scored": rows - self.bad.rows,
            "bad": self.bad.rows,
            "left_out": [each.name for each in found.left_out],
            "strays": strays,
            "columns": output_schema(found.job, found.kept(0)).names if found.files else [],
        }
        output.write_small(SUMMARY, json.dumps(content, indent=1) + "\n")
        if strays:
            self.say(f"note: {len(strays):,} files below {output.url} have no input any more, such as {strays[0]}")
        if lines:
            self.say(
                f"bad data    {self.bad.rows:,} rows without scores, {self.bad.files:,} files left out "
                f"({output.url}/{QUARANTINE})"
            )
        self.say(f"predicted   {rows:,} rows of {len(found.files):,} files: {output.url}")

    def _tell(self, done: int, seconds: float) -> None:
        total, speed = self.found.rows, done / seconds
        left = duration((total - done) / max(speed, 1e-9))
        self.say(f"predicted {done:>11,} of {total:,} rows ({done / total:4.0%})  {speed:>9,.0f} rows/s  {left} left")


class _Unit:
    """A unit on its way: its chunks, and the logits so far."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.logits: list[Tensor] = []
        self._rows = 0

    def add(self, chunk: Chunk, logits_BT: Tensor) -> None:
        if not self.chunks or self.chunks[-1] is not chunk:
            self.chunks.append(chunk)
        self.logits.append(logits_BT)
        self._rows += len(logits_BT)

    @property
    def complete(self) -> bool:
        return self.chunks[-1].last and self._rows == sum(chunk.rows.num_rows for chunk in self.chunks)


def _cut(chunks: Any, sizes: list[int]) -> Any:
    """The rows of each step: a chunk and a part of its rows, or None in a step without any.

    A step's rows lie in one chunk: chunks are decoded in multiples of a step's rows.
    """
    chunk: Chunk | None = None
    used = 0
    for size in sizes:
        if not size:
            yield None
            continue
        if chunk is None or used == chunk.rows.num_rows:
            chunk, used = next(chunks), 0
        assert used + size <= chunk.rows.num_rows, "a chunk holds whole steps"
        yield chunk, Part(chunk.rows, used, used + size)
        used += size
