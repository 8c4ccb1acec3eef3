"""A day on several nodes: node 0 leads, the others run their share of each torchrun step that it announces.

ROOT/at-work.json    what the leader has started last: a token, the job, the lease's term; or that it is done

The same command runs on every node, torchrun's flags before the configuration. Each step is a rendezvous of its own, by
the token, so that a node never meets the step before.
"""

import argparse
import dataclasses
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.daily.lease import term_at_work
from pipeline.daily.place import get, put
from pipeline.daily.process import Runner, StoppedError
from pipeline.storage import filesystem
from schemas.errors import InputError

POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Which of how many nodes this is."""

    count: int
    rank: int

    @classmethod
    def of_flags(cls, flags: Sequence[str]) -> "Nodes":
        """From torchrun's flags, or the environment that Kubeflow's operators set for it. Raises InputError."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--nnodes", default=os.environ.get("PET_NNODES", "1"))
        parser.add_argument("--node-rank", "--node_rank", default=os.environ.get("PET_NODE_RANK", "0"))
        known, _ = parser.parse_known_args(list(flags))
        count = str(known.nnodes).partition(":")[2] or str(known.nnodes)
        if not count.isdigit() or not str(known.node_rank).isdigit():
            raise InputError(f"--nnodes {known.nnodes} --node-rank {known.node_rank}: give whole numbers")
        if int(known.node_rank) >= int(count):
            raise InputError(f"--node-rank: {known.node_rank} of {count} nodes; they are counted from 0")
        return cls(int(count), int(known.node_rank))


class Leader:
    """Announces each torchrun step of node 0."""

    def __init__(self, root: str, term: int) -> None:
        self._url, self._term = f"{root}/at-work.json", term

    def announce(self, kind: str, job_yaml: bytes) -> list[str]:
        """Tells the others; the flags by which all meet."""
        token = secrets.token_hex(8)
        self._put({"token": token, "kind": kind, "job": job_yaml.decode()})
        return ["--rdzv-id", token]

    def end(self, code: int) -> None:
        """Tells the others that there is no more to do."""
        self._put({"token": secrets.token_hex(8), "code": code})

    def _put(self, told: dict[str, Any]) -> None:
        put(self._url, json.dumps(told | {"term": self._term}).encode())


def follow(root: str, runner: Runner, patience: float, say: Callable[[str], None]) -> int:
    """Runs this node's share of what the leader announces, until it is done; the leader's exit code.

    Raises StoppedError where this node was told to stop, or no leader was at work for `patience` seconds.
    """
    told = _read(root)  # before the term: what is announced in between is not taken for old
    seen = told.get("token") if told.get("term") != term_at_work(root) else None
    waited_since = time.monotonic()
    while True:
        runner.check()
        term, told = term_at_work(root), _read(root)
        fresh = told.get("token") not in (None, seen)
        if fresh and "code" in told:
            return int(told["code"])
        if fresh and told["term"] == term:
            seen, waited_since = told["token"], time.monotonic()
            say(f"joining {told['kind']} {seen}")
            runner.run(told["kind"], told["job"].encode(), ["--rdzv-id", seen])
            waited_since = time.monotonic()
        elif term is not None:
            waited_since = time.monotonic()
        elif time.monotonic() - waited_since > patience:
            raise StoppedError(f"no leader was at work in {root} for {patience:.0f} s")
        time.sleep(POLL_SECONDS)


def _read(root: str) -> dict[str, Any]:
    fs, path = filesystem(f"{root}/at-work.json")
    fs.invalidate_cache()
    return json.loads(get(f"{root}/at-work.json")) if fs.exists(path) else {}
