"""Which precision the dense network trains in, where the job leaves that to the hardware."""

from typing import Literal

import torch
import torch.distributed as dist

from schemas.job import JobConfig

Precision = Literal["fp32", "bf16"]
AMPERE = (8, 0)
"""The first compute capability whose tensor cores multiply bf16."""


def settled(job: JobConfig, device: torch.device, begun: Precision | None) -> JobConfig:
    """The job with a precision in place of `auto`; every rank must call it.

    It is what the run began with (`begun`), so that a resume on other hardware goes on alike; else bf16 where every
    rank's hardware multiplies it, since ranks of unlike precisions would train one network by two rules.
    """
    native = torch.tensor(float(multiplies_bf16(device)), device=device)
    dist.all_reduce(native, dist.ReduceOp.MIN)
    if job.train.precision != "auto":
        return job
    return with_precision(job, begun or ("bf16" if native else "fp32"))


def local(job: JobConfig, device: torch.device) -> JobConfig:
    """The job with a precision in place of `auto`, by this machine alone: outside of a run."""
    own: Precision = "bf16" if multiplies_bf16(device) else "fp32"
    return with_precision(job, own) if job.train.precision == "auto" else job


def with_precision(job: JobConfig, precision: Precision) -> JobConfig:
    """The job, its precision replaced."""
    return job.model_copy(update={"train": job.train.model_copy(update={"precision": precision})})


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has instructions for products of bf16: elsewhere they are slower than those of fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
