"""Complaints of Kubernetes' and Kubeflow's own schemas about manifests: python manifest_checks.py FILE ...

Runs in the environment of manifests.lock. Prints {path: {"complaints": [...], "misspelt": [keys that may be misspelt
without a complaint, each key of the manifest tried in turn]}}.
"""

import copy
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils
import yaml
from kubeflow.training import models as training
from kubeflow.training.constants import constants
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from kubernetes.client import models as core

KUBERNETES = "1.33"
FREE = {"labels", "annotations", "requests", "limits", "matchLabels"}
"""Maps whose keys are anybody's."""


# it reads megabytes of schemas for each of the hundreds of misspelt manifests
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def complaints(manifest: dict[str, Any]) -> list[str]:
    """What the schema of its kind refuses."""
    try:
        return {"CronJob": cron_job, "TrainJob": train_job, "PyTorchJob": pytorch_job}[manifest["kind"]](manifest)
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:400]}"]


def cron_job(manifest: dict[str, Any]) -> list[str]:
    """Kubernetes' own JSON schema; unknown keys are refused."""
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    return []


def train_job(manifest: dict[str, Any]) -> list[str]:
    """Kubeflow Trainer's models: they drop what they do not know, so everything must come back."""
    return lost(manifest, TrainerV1alpha1TrainJob.from_dict(copy.deepcopy(manifest)).to_dict(), "")


def lost(given: Any, kept: Any, where: str) -> list[str]:
    """What is in `given` and not in `kept`."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [c for key, value in given.items() for c in lost(value, kept.get(key), f"{where}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [c for n, (a, b) in enumerate(zip(given, kept, strict=True)) for c in lost(a, b, f"{where}[{n}]")]
    return [] if given == kept else [f"{where}: {given!r} came back as {kept!r}"]


def pytorch_job(manifest: dict[str, Any]) -> list[str]:
    """The training operator's models name every key and its type; the pods are held to Kubernetes' own schema too."""
    found = list(unknown(manifest, "KubeflowOrgV1PyTorchJob", ""))
    for name, replica in manifest["spec"]["pytorchReplicaSpecs"].items():
        if name not in (constants.REPLICA_TYPE_MASTER, constants.REPLICA_TYPE_WORKER):
            found.append(f"no replica type {name!r}")
        template = replica["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    return found


PLAIN = {"str": str, "int": int, "bool": bool, "float": float, "object": object, "datetime": str}


def unknown(value: Any, kind: str, where: str) -> Iterator[str]:
    """Keys and types that the model KIND does not have."""
    if kind.startswith(("list[", "dict(")):
        inner = kind[5:-1].rpartition(", ")[2]
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from unknown(item, inner, f"{where}.{key}")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):
            yield f"{where}: {value!r} is no {kind}"
    else:
        model = getattr(training, kind, None) or getattr(core, kind)
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        for key, item in value.items():
            if key in names:
                yield from unknown(item, model.openapi_types[names[key]], f"{where}.{key}")
            else:
                yield f"{where}.{key}: no such key of {kind}"


def misspellings(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The manifest with each key misspelt in turn."""
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items:
        here = f"{where}.{key}"
        if isinstance(node, dict):
            yield here, {(k + "x" if k == key else k): v for k, v in items}
        if key not in FREE:
            for inner, changed in misspellings(value, here):
                whole = copy.copy(node)
                whole[key] = changed
                yield inner, whole


def main(names: list[str]) -> dict[str, dict[str, list[str]]]:
    """What is told of each file; misspellings only where nothing else is wrong."""
    told = {}
    for name in names:
        manifest = yaml.safe_load(Path(name).read_text())
        said = complaints(manifest)
        passed = [] if said else [where for where, changed in misspellings(manifest) if not complaints(changed)]
        told[name] = {"complaints": said, "misspelt": passed}
    return told


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
