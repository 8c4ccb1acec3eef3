"""The process group and the device of this rank."""

import datetime
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from pipeline.train.stop import Stop, Stopped


@dataclass(frozen=True)
class Ranks:
    """Who this process is."""

    rank: int
    world: int
    device: torch.device
    stop: Stop = field(default_factory=Stop, compare=False)
    """What it has been told about stopping."""

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0


@contextmanager
def process_group(timeout_seconds: int, stop: Stop | None = None) -> Iterator[Ranks]:
    """Joins the group torchrun describes in the environment; without torchrun, a group of one.

    Every collective fails after `timeout_seconds` rather than wait for a rank that is gone.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        # launchers share out the cores; a rank that takes all of them slows every other down
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    backend, timeout = "nccl" if cuda else "gloo", datetime.timedelta(seconds=timeout_seconds)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device, stop or Stop())
    except Stopped:
        dist.destroy_process_group()
        raise
    # not where a rank has failed: it must record why before its peers see its sockets close
    dist.destroy_process_group()


def quiet_libraries() -> None:
    """Silences what TorchRec and torch say of their own internals; their errors still come through."""
    for module in ("torch", "torchrec", "fbgemm_gpu"):
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}(\.|$)")
    warnings.filterwarnings("ignore", ".isinstance.treespec, LeafSpec", FutureWarning)  # torch's, in copyreg's name
    for name in ("torchrec", "torch.fx", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
