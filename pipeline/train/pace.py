"""What a run has cost so far: rows a second while it trains, wall time, memory. Each commit holds it, so a run that
goes on counts its earlier attempts too, up to the commit that it goes on from.
"""

import dataclasses
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from pipeline.train.dist import Ranks

PACE = "pace.json"
START_STEPS = 5
"""Steps after each start that are not timed: first batches, caches and kernels on their way."""


@dataclasses.dataclass
class Pace:
    """Counted by every rank, told by the first."""

    timed_rows: int = 0
    """Rows of all ranks in the steps that were timed."""
    timed_seconds: float = 0.0
    """What those steps took, without progress lines and checkpoints."""
    seconds: float = 0.0
    """Wall time, all included, up to the last `encoded`."""
    rss_bytes: int = 0
    """The largest resident memory that any rank has had."""
    cuda_bytes: int = 0
    """The most CUDA memory that torch has held for any rank; 0 on a CPU."""

    def __post_init__(self) -> None:
        self._clock = time.perf_counter()
        self.begin(0)

    def restore(self, encoded: bytes) -> None:
        """Takes up what an earlier attempt has cost."""
        before = json.loads(encoded)
        for name in ("timed_rows", "timed_seconds", "seconds"):
            setattr(self, name, getattr(self, name) + before[name])
        for name in ("rss_bytes", "cuda_bytes"):
            setattr(self, name, max(getattr(self, name), before[name]))

    def begin(self, samples: int) -> None:
        """From here on steps follow one another; `samples` rows are trained."""
        self._steps, self._samples, self._since = 0, samples, time.perf_counter()

    def step(self, samples: int) -> None:
        """A step has ended, after which `samples` rows are trained."""
        now = time.perf_counter()
        self._steps += 1
        if self._steps > START_STEPS:
            self.timed_rows += samples - self._samples
            self.timed_seconds += now - self._since
        self._samples, self._since = samples, now

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is no part of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began

    @property
    def rows_per_second(self) -> float | None:
        """Over the timed steps; None where the run has had none."""
        return self.timed_rows / self.timed_seconds if self.timed_seconds > 0 else None

    def measure(self, ranks: Ranks) -> None:
        """Brings memory up to date with every rank's peak; each must call it."""
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux tells KiB
        cuda = torch.cuda.max_memory_allocated(ranks.device) if ranks.device.type == "cuda" else 0
        peak = torch.tensor([float(rss), float(cuda)], dtype=torch.float64, device=ranks.device)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        self.rss_bytes, self.cuda_bytes = (
            max(old, int(new)) for old, new in zip((self.rss_bytes, self.cuda_bytes), peak.tolist(), strict=True)
        )

    def values(self) -> dict[str, Any]:
        """All of it, as of now."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        return dataclasses.asdict(self)

    def encoded(self) -> bytes:
        """As a commit holds it."""
        return json.dumps(self.values()).encode()
