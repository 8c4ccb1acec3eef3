"""A process, told apart from every other one on any machine, and whether it is still there. Linux.

A pid alone says little: it is given again, and means another process in another container or after a start of the
machine. With the boot's id, the pid namespace and the process's start time it is one process only.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Process:
    """One process of one boot of one machine."""

    pid: int
    started: int
    """Ticks from the boot to its start."""
    boot: str
    """Id of the machine's boot; empty where it is not to be had."""
    namespace: str
    """Of its pids; empty where it is not to be had."""

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Process":
        """What `facts` gave."""
        return cls(**{field.name: facts[field.name] for field in dataclasses.fields(cls)})


def this_process() -> Process:
    """The process that asks."""
    told = _state(os.getpid())
    same = os.path.realpath("/proc/self") == f"/proc/{os.getpid()}"  # else it is another namespace's /proc
    return Process(os.getpid(), told[1] if told and same else 0, _boot(), _namespace())


def alive(process: Process) -> bool | None:
    """Whether it is there; None where this process cannot see: on another machine, or in another container.

    The kernel gives a namespace's number anew only when the last process in it is gone; so in a namespace of the same
    number, under the same boot, whoever is not found is gone in any case.
    """
    mine = this_process()
    if not (mine.boot and mine.namespace and mine.started and process.started):
        return None
    if (mine.boot, mine.namespace) != (process.boot, process.namespace):
        return None
    told = _state(process.pid)
    if told is None:
        return None if _answers(process.pid) else False
    return told[0] not in "ZX" and told[1] == process.started


def _answers(pid: int) -> bool:
    """Whether the pid is taken: /proc may be mounted so that it does not show other users' processes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _state(pid: int) -> tuple[str, int] | None:
    """Its state's letter and its start in ticks after the boot; None where /proc shows no such process."""
    try:
        # the second field is the command's name in brackets, which may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
