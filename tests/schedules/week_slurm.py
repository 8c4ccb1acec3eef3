"""A week of the script under Slurm itself: a cluster of this one machine, with eight pretended GPUs.

Needs root, and the packages slurmctld, slurmd, slurm-client and munge.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.schedules.commands import SCHEDULES
from tests.schedules.home import Home

SECONDS = 900
CONFIGURATION = """
ClusterName=week
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=requeue_delay=1
MpiDefault=none
ReturnToService=2
MinJobAge=86400
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=70000 Gres=gpu:8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def run(home: Home, days: list[str], missed: Sequence[str] = ()) -> list[str]:
    """Each day but the missed ones submitted as a login node's cron does; what scontrol says when all have ended."""
    folder = home.path.parent / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = os.uname().nodename
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=folder))
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/gpu[0-7]\n")
    for number in range(8):
        (folder / f"gpu{number}").touch()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    env = home.environment(path=os.environ["PATH"]) | {"SLURM_CONF": str(folder / "slurm.conf"), "LANG": "C.UTF-8"}
    munge = {"key": key, "socket": "munge.socket", "pid": "munged.pid", "log": "munged.log", "seed": "munged.seed"}
    files = [f"--{name}{'' if name == 'socket' else '-file'}={folder / file}" for name, file in munge.items()]
    daemons = [
        ["munged", "-F", "--force", *files],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]
    started = []
    try:
        for command in daemons:
            program = shutil.which(command[0], path=os.environ["PATH"] + ":/usr/sbin")
            assert program, "apt-get install slurmctld slurmd slurm-client munge"
            log = (folder / f"{command[0]}.out").open("w")
            started.append(subprocess.Popen([program, *command[1:]], env=env, stdout=log, stderr=log))
            time.sleep(2)
        script = SCHEDULES / "slurm" / "fulcrum_daily.sbatch"
        for day in [day for day in days if day not in missed]:
            print(day, said(["sbatch", str(script), day], env, home.path).strip())
        ended(env, home.path)
        jobs = said(["scontrol", "show", "job", "--oneliner"], env, home.path)
        return [" ".join(re.findall(r"\b(?:JobId|JobState|Restarts|ExitCode)=\S+", line)) for line in jobs.splitlines()]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def ended(env: dict[str, str], cwd: Path) -> None:
    """Waits until the queue is empty."""
    deadline = time.monotonic() + SECONDS
    while (queue := said(["squeue", "--noheader", "--states=PD,R,CG"], env, cwd)).strip():
        assert time.monotonic() < deadline, queue
        time.sleep(1)


def said(command: list[str], env: dict[str, str], cwd: Path) -> str:
    """What it printed."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
