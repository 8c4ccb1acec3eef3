"""The command of each schedule that has no engine of its own to call, as its system would start it."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.schedules.home import CONFIG, ROOT, Home

SCHEDULES = ROOT / "jobs" / "schedules"
SECONDS = 600


def crontab() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Variables, and (times, command) of each line, as crontab(5) reads them."""
    variables, lines = {}, []
    for line in (SCHEDULES / "cron" / "crontab").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if found := re.fullmatch(r"(\w+)=(.*)", line):
            variables[found[1]] = found[2]
            continue
        *times, command = line.split(maxsplit=5)
        lines.append((" ".join(times), percent(command)))
    return variables, lines


def percent(command: str) -> str:
    """An unescaped percent sign ends the command, an escaped one is a percent sign."""
    return re.split(r"(?<!\\)%", command)[0].replace("\\%", "%")


def cron(home: Home, now: str) -> subprocess.CompletedProcess[str]:
    """What crond does with the crontab's line: /bin/sh, the crontab's variables and almost nothing else."""
    variables, [(_, command)] = crontab()
    env = {"SHELL": "/bin/sh", "LOGNAME": "fulcrum"} | variables | home.environment(now, variables["PATH"])
    return subprocess.run(["/bin/sh", "-c", command], env=env, cwd=env["HOME"], **_captured)


def unit(name: str) -> dict[str, str]:
    """Settings of a unit; its sections have no two of a name."""
    text = (SCHEDULES / "systemd" / name).read_text()
    pairs = [line.partition("=") for line in text.splitlines() if line and line[0] not in "#["]
    assert len({key for key, _, _ in pairs}) == len(pairs)
    return {key: value for key, _, value in pairs}


def systemd_word(word: str) -> str:
    """A word of ExecStart=: %% and $$ are one sign each, and the files here have no specifier and no variable."""
    assert not re.search(r"[%$]", re.sub(r"%%|\$\$", "", word)), f"systemd would replace something in {word}"
    return word.replace("%%", "%").replace("$$", "$")


def systemd(home: Home, now: str) -> subprocess.CompletedProcess[str]:
    """ExecStart=, its escapes resolved as systemd.service(5) has them."""
    words = [systemd_word(word) for word in shlex.split(unit("fulcrum-daily.service")["ExecStart"])]
    return subprocess.run(words, env=home.environment(now), cwd=home.path, **_captured)


def manifest(name: str) -> dict[str, Any]:
    """A Kubernetes manifest."""
    return yaml.safe_load((SCHEDULES / "kubernetes" / f"{name}.yaml").read_text())


def expanded(words: list[str], env: dict[str, str]) -> list[str]:
    """A container's command or arguments: $(NAME) is replaced where NAME is known, $$ is one dollar sign."""

    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return env.get(found[1], found[0])

    return [re.sub(r"\$\$|\$\(([^)]*)\)", one, word) for word in words]


def kubernetes(home: Home, now: str) -> subprocess.CompletedProcess[str]:
    """The container of the CronJob's pod."""
    [container] = manifest("cronjob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    env = (
        home.environment(now) | {each["name"]: each["value"] for each in container["env"]} | {"FULCRUM_CONFIG": CONFIG}
    )
    words = expanded(container["command"] + container["args"], env)
    return subprocess.run(words, env=env, cwd=home.path, **_captured)


def slurm(home: Home, now: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """The job's script with a srun that runs the step here and a scontrol that writes down what it is told."""
    home.program(
        "srun", '#!/bin/sh\necho "srun $*" >>"$HOME/calls"\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
    )
    home.program("scontrol", '#!/bin/sh\necho "scontrol $*" >>"$HOME/calls"\n')
    env = home.environment(now) | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    script = SCHEDULES / "slurm" / "fulcrum_daily.sbatch"
    submit = re.search(r'fulcrum_daily\.sbatch ("\$\(date.*\)")$', script.read_text(), re.MULTILINE)
    assert submit, "the line of a crontab in the script's head"
    day = subprocess.run(["/bin/sh", "-c", f"echo {percent(submit[1])}"], env=env, **_captured).stdout.strip()
    return subprocess.run(["/bin/bash", str(script), day], env=env, cwd=env["HOME"], **_captured)


_captured: dict[str, Any] = {"capture_output": True, "text": True, "timeout": SECONDS}
EACH = {"cron": cron, "systemd": systemd, "kubernetes": kubernetes, "slurm": slurm}


def engine_said(python: Path, script: str, *arguments: str, env: dict[str, str], cwd: Path) -> dict[str, Any]:
    """The last line of JSON of a script that an engine's environment runs."""
    command = [str(python), str(Path(__file__).parent / script), *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
