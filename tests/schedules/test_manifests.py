"""Kubernetes' manifests against the schemas of Kubernetes and Kubeflow, and against what the exit codes mean."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.schedules.commands import SCHEDULES, expanded, manifest
from tests.schedules.environments import python_of
from tests.schedules.home import Home

NAMES = ["cronjob", "trainjob", "pytorchjob"]
Checks = Callable[..., dict[str, list[str]]]


@pytest.fixture(scope="module")
def checks() -> Checks:
    """manifest_checks.py in its environment."""
    python = python_of("manifests")
    script = Path(__file__).parent / "manifest_checks.py"

    def run(*arguments: str) -> dict[str, list[str]]:
        done = subprocess.run([str(python), str(script), *arguments], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-8000:]
        return json.loads(done.stdout)

    return run


def files() -> list[str]:
    return [str(SCHEDULES / "kubernetes" / f"{name}.yaml") for name in NAMES]


def test_the_schemas_take_every_manifest(checks: Checks) -> None:
    assert checks(*files()) == {f"{name}.yaml": [] for name in NAMES}


def test_the_schemas_refuse_each_key_misspelt(checks: Checks) -> None:
    assert checks("--misspell", *files()) == {f"{name}.yaml": [] for name in NAMES}


def test_the_schemas_refuse_wrong_types(checks: Checks, tmp_path: Path) -> None:
    odd = {
        "cronjob": ("concurrencyPolicy: Forbid", "concurrencyPolicy: 7"),
        "trainjob": ("numNodes: 2", "numNodes: two"),
        "pytorchjob": ("backoffLimit: 3", "backoffLimit: three"),
    }
    for name, (good, bad) in odd.items():
        text = (SCHEDULES / "kubernetes" / f"{name}.yaml").read_text()
        assert good in text
        (tmp_path / f"{name}.yaml").write_text(text.replace(good, bad))
    told = checks(*(str(tmp_path / f"{name}.yaml") for name in NAMES))
    assert all(told.values()), told


def test_pods_that_end_with_an_answer_are_not_tried_again() -> None:
    cron = manifest("cronjob")["spec"]
    job = cron["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    fail, ignore = job["podFailurePolicy"]["rules"]
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4])
    assert fail["onExitCodes"]["containerName"] in [each["name"] for each in pod["containers"]]
    assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert pod["restartPolicy"] == "Never", "a pod failure policy needs it"
    assert cron["concurrencyPolicy"] == "Forbid"
    assert job["activeDeadlineSeconds"] < 21 * 3600, "over before the next start"
    assert pod["terminationGracePeriodSeconds"] > 600, "longer than train.stop_seconds"


def command(container: dict[str, Any], home: Home, env: dict[str, str]) -> str:
    """What launch.sh was told."""
    env = home.environment() | env | {each["name"]: each["value"] for each in container["env"]}
    words = [word.replace("/srv/fulcrum", f"'{home.path}'") for word in container["command"] + container["args"]]
    done = subprocess.run(expanded(words, env), env=env, cwd=home.path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_node_of_a_train_job_is_told_where_the_ranks_meet(tmp_path: Path) -> None:
    pet = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "8", "PET_MASTER_ADDR": "node-0", "PET_MASTER_PORT": "29400"}
    told = command(manifest("trainjob")["spec"]["trainer"], Home(tmp_path), pet)
    flags = "--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node-0:29400"
    assert told == f"launch.sh train {flags} /etc/fulcrum/ranker.yaml"


def test_both_roles_of_a_pytorch_job_run_one_command_and_count_its_nodes(tmp_path: Path) -> None:
    replicas = manifest("pytorchjob")["spec"]["pytorchReplicaSpecs"]
    assert sum(replica["replicas"] for replica in replicas.values()) == 2
    for number, replica in enumerate(replicas.values()):
        [container] = replica["template"]["spec"]["containers"]
        (folder := tmp_path / str(number)).mkdir()
        told = command(container, Home(folder), {"MASTER_ADDR": "node-0", "MASTER_PORT": "23456"})
        flags = "--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node-0:23456"
        assert told == f"launch.sh train {flags} /etc/fulcrum/ranker.yaml"
