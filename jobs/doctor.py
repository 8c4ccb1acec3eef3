"""Say what is installed here, what it runs on, and what is wrong with it."""

import argparse
import importlib.metadata as metadata
import os
import platform
import shutil
import sys

KNOWN_TRIPLES = {("2.13", "1.8.0", "1.8.0"), ("2.11", "1.6.1", "1.6.0")}
"""(torch, torchrec, fbgemm) that work together; others are not known to."""
LEAST_MEMORY = 4 << 30
LEAST_DISK = 2 << 30


def version(*names: str) -> tuple[str, str] | None:
    """(package, version) of the first of these that is installed."""
    for name in names:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_triple(cuda: bool) -> tuple[list[str], list[str]]:
    """Lines on torch, torchrec and fbgemm, and what is wrong with them."""
    torch, torchrec = version("torch"), version("torchrec")
    fbgemm = version("fbgemm-gpu" if cuda else "fbgemm-gpu-cpu", "fbgemm-gpu-cpu", "fbgemm-gpu")
    lines = [
        f"{what:<10} {found[1] + ' (' + found[0] + ')' if found else 'missing'}"
        for what, found in (("torch", torch), ("torchrec", torchrec), ("fbgemm", fbgemm))
    ]
    if not (torch and torchrec and fbgemm):
        return lines, ["a package of the triple is missing; run ./launch.sh help once, it installs the locks"]
    wrong = []
    triple = (".".join(torch[1].split(".")[:2]), torchrec[1], fbgemm[1].partition("+")[0])
    if triple not in KNOWN_TRIPLES:
        wrong.append(
            f"torch {triple[0]} / torchrec {triple[1]} / fbgemm {triple[2]} is not a triple known to work: "
            + " or ".join(" / ".join(known) for known in sorted(KNOWN_TRIPLES))
        )
    if cuda and fbgemm[0] == "fbgemm-gpu-cpu":
        wrong.append("a GPU, but the CPU build of fbgemm; remove .venv and run ./launch.sh again on this machine")
    return lines, wrong


def check_machine() -> tuple[list[str], list[str]]:
    """Lines on memory and disk, and what is wrong with them."""
    wrong = []
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:  # what Linux could free counts as well
        with open("/proc/meminfo") as meminfo:
            free = next(int(line.split()[1]) << 10 for line in meminfo if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    disk = shutil.disk_usage(".").free
    if free < LEAST_MEMORY:
        wrong.append(f"only {free / 2**30:.1f} GiB of memory free; training the generated log needs about 4")
    if disk < LEAST_DISK:
        wrong.append(f"only {disk / 2**30:.1f} GiB of disk free here; the generated log and checkpoints need about 2")
    lines = [f"{'cores':<10} {os.cpu_count()}", f"{'memory':<10} {free / 2**30:.1f} GiB free"]
    return [*lines, f"{'disk':<10} {disk / 2**30:.1f} GiB free here"], wrong


def check_stack() -> tuple[list[str], list[str]]:
    """Lines on the devices and backend, and whether the fused table kernel runs."""
    from pipeline.train.dist import quiet_libraries

    quiet_libraries()
    import torch

    from pipeline.train.precision import multiplies_bf16

    cuda = torch.cuda.is_available()
    lines, wrong = check_triple(cuda)
    if cuda:
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            lines.append(f"{'gpu ' + str(index):<10} {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    else:
        lines.append(f"{'gpu':<10} none: training runs on the CPU")
    lines.append(f"{'backend':<10} {'nccl' if cuda else 'gloo'}")
    bf16 = multiplies_bf16(torch.device("cuda" if cuda else "cpu"))
    lines.append(f"{'precision':<10} {'bf16' if bf16 else 'fp32'}, where train.precision is auto")
    try:
        import torchrec  # noqa: F401 - loads fbgemm's operators, which is what fails on a mixed triple
    except Exception as error:
        wrong.append(f"torchrec does not load: {error}")
    return lines, wrong


def main() -> int:
    """Prints the findings; 1 where something is wrong."""
    argparse.ArgumentParser(prog="./launch.sh doctor", description=__doc__).parse_args()
    lines = [f"{'python':<10} {platform.python_version()} on {platform.system()} {platform.machine()}"]
    wrong = [] if sys.version_info >= (3, 11) else ["Python 3.11 or newer is needed"]
    for check in (check_stack, check_machine):
        found, bad = check()
        lines += found
        wrong += bad
    wandb = version("wandb")
    lines.append(f"{'wandb':<10} {wandb[1] if wandb else 'missing'}")
    print("\n".join(lines))
    print("\n".join(f"wrong: {problem}" for problem in wrong) if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
