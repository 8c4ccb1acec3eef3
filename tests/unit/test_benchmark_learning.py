"""The benchmark of learning keeps finished runs, and those of its own settings alone."""

import json
import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import learning


def test_what_is_kept_is_of_the_same_settings_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def trains(command: list[str], **more: Any) -> types.SimpleNamespace:
        calls.append(command)
        (output,) = [word.removeprefix("output=") for word in command if word.startswith("output=")]
        Path(output, "result.json").write_text(json.dumps({"tasks": {"click": {"own": {"auc": 0.7}}}}))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(learning, "subprocess", types.SimpleNamespace(run=trains))
    folder = tmp_path / "naive/0"
    for _ in range(2):
        assert learning.run(folder, Path("log"), ["seed=0"]) == {"click/auc": 0.7}
    assert len(calls) == 1
    for log, settings in (("another", ["seed=0"]), ("log", ["seed=0", "train.epochs=2"])):
        with pytest.raises(SystemExit, match="was run with other settings or rows; name another --out"):
            learning.run(folder, Path(log), settings)
