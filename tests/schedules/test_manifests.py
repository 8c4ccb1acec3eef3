"""Kubernetes' manifests against the schemas of Kubernetes and Kubeflow, and against what the exit codes mean."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.schedules.commands import SCHEDULES, engine_said, expanded, manifest
from tests.schedules.environments import python_of
from tests.schedules.home import Home

NAMES = ["cronjob", "trainjob", "pytorchjob"]
WRONG_TYPES = {
    "cronjob": ("backoffLimit: 12", "backoffLimit: twelve"),
    "trainjob": ("numNodes: 2", "numNodes: two"),
    "pytorchjob": ("backoffLimit: 3", "backoffLimit: three"),
}
Told = dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What manifest_checks.py says of the manifests, and of copies with a wrong type: `wrong-NAME`."""
    folder = tmp_path_factory.mktemp("manifests")
    for name, (good, bad) in WRONG_TYPES.items():
        text = (SCHEDULES / "kubernetes" / f"{name}.yaml").read_text()
        assert good in text
        (folder / f"{name}.yaml").write_text(text)
        (folder / f"wrong-{name}.yaml").write_text(text.replace(good, bad))
    files = [str(file) for file in folder.iterdir()]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    said = engine_said(python_of("manifests"), "manifest_checks.py", *files, env=env, cwd=folder)
    return {Path(file).stem: each for file, each in said.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_takes_the_manifest(told: Told, name: str) -> None:
    assert told[name]["complaints"] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_refuses_each_key_misspelt_and_a_wrong_type(told: Told, name: str) -> None:
    assert told[name]["misspelt"] == []
    assert told[f"wrong-{name}"]["complaints"] != []


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
