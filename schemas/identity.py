"""What of a job decides its numbers, to tell whether two runs are one and the same."""

import hashlib
import json
from typing import Any

VOCABULARIES = "vocabularies"
"""Beside the settings of a saved configuration: what each vocabulary holds, as ENTRIES:SHA256 by feature.

Commits of older versions have the SHA-256 alone."""
MAY_CHANGE = ("output", "tracking", "name", "score", "fusion", "predict", "evaluate", "fuse", "daily")
"""Settings a resumed job may change: they do not touch the numbers."""
MAY_CHANGE_IN_TRAIN = (
    "log_every",
    "checkpoint_every",
    "keep_last",
    "resume",
    "timeout_seconds",
    "stop_seconds",
    "async_checkpoint",
)


def numeric(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the numbers, of a whole configuration as plain data."""
    out = {key: value for key, value in config.items() if key not in (*MAY_CHANGE, VOCABULARIES)}
    # where a vocabulary lies does not matter either: what it holds is compared
    out["features"] = [{**feature, "vocabulary": bool(feature.get("vocabulary"))} for feature in config["features"]]
    out["train"] = {key: value for key, value in config["train"].items() if key not in MAY_CHANGE_IN_TRAIN}
    # a plan lays tables, it trains them alike; row-wise Adagrad under column_wise is told of where it is converted
    out["tables"] = {
        name: {k: v for k, v in table.items() if k != "sharding"} for name, table in config["tables"].items()
    }
    # where the log lies, how far to read ahead and how patiently do not matter: its fingerprint is compared
    # what ends a run and what it leaves out instead: until then, the rows are the same
    free = ("path", "prefetch_batches", "storage", "require_success", "eval", "bad", "frozen")
    out["data"] = {k: v for k, v in config["data"].items() if k not in free}
    # nor where the statistics of earlier days lie: the manifest has their digests
    begun = (config["data"].get("history") or {}).get("from") or config["data"]["train"]["from"]
    out["data"]["history"] = {"from": begun}
    # what is evaluated decides nothing of what is trained
    if config["data"].get("holdout"):
        out["data"]["holdout"] = {k: v for k, v in config["data"]["holdout"].items() if k != "eval"}
    return out


def digest(vocabulary: str) -> str:
    """The SHA-256 of a vocabulary's fingerprint, which tells its values whatever version wrote it."""
    return vocabulary.rpartition(":")[2]


def entries(vocabulary: str) -> int | None:
    """How many values a vocabulary's fingerprint is of; None where an older version wrote it, which did not say."""
    told = vocabulary.rpartition(":")[0]
    return int(told) if told else None


def changes(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [c for key in keys for c in changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    return [] if old == new else [path]


def fingerprint(config: dict[str, Any]) -> str:
    """SHA-256 of the settings that decide the numbers and of what its vocabularies hold."""
    held = {feature: digest(told) for feature, told in config.get(VOCABULARIES, {}).items()}
    decided = numeric(config) | {VOCABULARIES: held}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
