"""Kubernetes' manifests against the schemas of Kubernetes and Kubeflow, and against what the exit codes mean."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from jobs.daily import arguments_of
from pipeline.daily.nodes import Nodes
from tests.schedules.commands import SCHEDULES, engine_said, expanded, manifest
from tests.schedules.environments import python_of
from tests.schedules.home import Home, after

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


WORDS = '#!/bin/sh\nprintf "%s\\n" "$@" >"$HOME/words"\n'


def told_launch(container: dict[str, Any], folder: Path, env: dict[str, str]) -> list[str]:
    """What launch.sh is told on the morning after 2026-01-08."""
    folder.mkdir()
    home = Home(folder, WORDS)
    env = home.environment(after("2026-01-08")) | env | {each["name"]: each["value"] for each in container["env"]}
    words = [word.replace("/srv/fulcrum", f"'{home.path}'") for word in container["command"] + container["args"]]
    done = subprocess.run(expanded(words, env), env=env, cwd=home.path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return (folder / "words").read_text().splitlines()


def check_node(words: list[str], rank: int, endpoint: str) -> None:
    """One of two nodes, as the daily job and torchrun read it."""
    assert words[0] == "daily"
    flags, told = arguments_of(words[1:])
    assert Nodes.of_flags(flags) == Nodes(2, rank)
    assert (told.config, str(told.date), told.catch_up) == ("/etc/fulcrum/ranker.yaml", "2026-01-08", True)
    torchrun = get_args_parser().parse_args([*flags, "job.yaml"])
    assert (torchrun.nnodes, torchrun.nproc_per_node, torchrun.rdzv_backend) == ("2", "8", "c10d")
    assert torchrun.rdzv_endpoint == endpoint


@pytest.mark.parametrize("rank", [0, 1])
def test_every_node_of_a_train_job_takes_its_part_in_the_day(tmp_path: Path, rank: int) -> None:
    pet = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "8", "PET_MASTER_ADDR": "node-0", "PET_MASTER_PORT": "29400"}
    pet["PET_NODE_RANK"] = str(rank)
    trainer = manifest("trainjob")["spec"]["trainer"]
    assert trainer["numNodes"] == 2
    check_node(told_launch(trainer, tmp_path / "node", pet), rank, "node-0:29400")


def test_both_roles_of_a_pytorch_job_take_their_part_in_the_day(tmp_path: Path) -> None:
    replicas = manifest("pytorchjob")["spec"]["pytorchReplicaSpecs"]
    assert {role: replica["replicas"] for role, replica in replicas.items()} == {"Master": 1, "Worker": 1}
    for rank, role in enumerate(("Master", "Worker")):  # as the operator counts
        [container] = replicas[role]["template"]["spec"]["containers"]
        env = {"MASTER_ADDR": "node-0", "MASTER_PORT": "23456", "RANK": str(rank), "WORLD_SIZE": "2"}
        check_node(told_launch(container, tmp_path / role, env), rank, "node-0:23456")


def test_a_day_on_several_nodes_is_over_before_the_next_start() -> None:
    jobs = manifest("trainjob")["spec"], manifest("pytorchjob")["spec"]["runPolicy"]
    assert [job["activeDeadlineSeconds"] < 21 * 3600 for job in jobs] == [True, True]
