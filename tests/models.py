"""Models for the registry: a commit of a few bytes each, below ROOT or elsewhere.

model = a_model(root, "2026-01-02", parent="2026-01-01")     # its checkpoint is written, itself not registered
champions(Registry(root), root, ["2026-01-01", "2026-01-02"])  # registered and promoted, one after another
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec

from pipeline.registry import Model, Registry

STEP = "step-00000010-0123abcd"


def a_model(root: Path | str, name: str, parent: str | None = None, **changes: Any) -> Model:
    """A model whose checkpoint has a file of weights and a manifest.json."""
    checkpoint = f"{root}/days/{name}/challenger/checkpoints/{STEP}"
    sha256 = write_commit(checkpoint, f"weights of {name}".encode())
    told: dict[str, Any] = {
        "name": name,
        "checkpoint": checkpoint,
        "checkpoint_sha256": sha256,
        "parent": parent,
        "days": [name[:10]],
        "skipped": [],
        "manifest": f"rows of {name}",
        "config": {"name": "ranker", "train": {"batch_size": 32}},
        "config_fingerprint": "c0ffee",
        "git": "abc1234",
        "metrics": {
            "click": {"kind": "binary", "own": {"auc": 0.7512}},
            "order": {"kind": "binary", "own": {"auc": 0.7}},
        },
        "verdict": f"{root}/days/{name}/verdict.json",
    }
    return Model(**told | changes)


def write_commit(address: str, weights: bytes) -> str:
    """Writes it; the hash of its manifest."""
    fs, path = fsspec.core.url_to_fs(address)
    note = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    manifest = json.dumps({"files": {"__0_0.distcp": note}}).encode()
    fs.makedirs(path, exist_ok=True)
    fs.pipe_file(f"{path}/__0_0.distcp", weights)
    fs.pipe_file(f"{path}/manifest.json", manifest)
    return hashlib.sha256(manifest).hexdigest()


def champions(registry: Registry, root: Path | str, names: Sequence[str]) -> None:
    """Each is registered with the one before as its parent, and promoted."""
    newest = registry.newest()
    parent, number = (newest.model, newest.number) if newest else (None, None)
    for name in names:
        registry.register(a_model(root, name, parent))
        parent, number = name, registry.promote(name, "blessed", expected=number).number
