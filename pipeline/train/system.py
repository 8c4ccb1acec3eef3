"""How a window of training went on each rank's machine: waits for data, the reader's work, memory."""

import resource

import torch
import torch.distributed as dist

from pipeline import keys
from pipeline.data.loader import LoaderClock
from pipeline.train.dist import Ranks
from schemas.job import JobConfig

GB = 1e9


class SystemWindow:
    """Counts from one window's end to the next."""

    def __init__(self, job: JobConfig, ranks: Ranks, clock: LoaderClock) -> None:
        self._each, self._ranks, self._clock = job.tracking.ranks, ranks, clock
        self._waited = self._worked = 0.0

    def close(self, seconds: float) -> dict[str, float]:
        """The window's numbers by key, the same on all ranks; each must call it. `seconds` is what training took."""
        clock, cuda = self._clock, self._ranks.device.type == "cuda"
        mine = [
            (clock.waited - self._waited) / max(seconds, 1e-9),
            (clock.worked - self._worked) / max(seconds, 1e-9),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB,  # Linux tells KiB
            torch.cuda.max_memory_allocated(self._ranks.device) / GB if cuda else 0.0,
        ]
        self._waited, self._worked = clock.waited, clock.worked
        mine_N = torch.tensor(mine, dtype=torch.float64, device=self._ranks.device)
        gathered = [torch.empty_like(mine_N) for _ in range(self._ranks.world)]
        dist.all_gather(gathered, mine_N)
        of_rank = [values.tolist() for values in gathered]
        waited, worked, rss, cuda_gb = zip(*of_rank, strict=True)
        out = {keys.WAIT_SHARE: max(waited), keys.DECODE_SHARE: sum(worked) / len(worked), keys.RSS: max(rss)}
        if cuda:
            out[keys.CUDA] = max(cuda_gb)
        if self._each:
            names = [keys.WAIT_SHARE, keys.DECODE_SHARE, keys.RSS, *([keys.CUDA] if cuda else [])]
            for rank, values in enumerate(of_rank):
                out |= {keys.of_rank(rank, name): value for name, value in zip(names, values, strict=False)}
        return out
