"""A checkpoint -> a bundle, written whole or not at all.

bundle.json       format, fields, features, tasks, fused score, calibration, of which checkpoint
model.pt2         the network and its tables, by torch.export
model.aoti.pt2    the same as machine code, by AOTInductor; by option
model.onnx        the same for ONNX Runtime; by option
vocabularies/     values that have a row, in the order of their rows
statistics/       of earlier days, as they stood on the day of the export
scorer/           the package that scores rows with all this
checksums.json    SHA-256 of every other file
README.md         how to score
"""

import dataclasses
import datetime
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.export.calibrate import fitted
from pipeline.export.loading import SCORER, load_bundle
from pipeline.export.network import PARTS, ScoringNetwork, Stored, compiled, exported, written_as_onnx
from pipeline.export.plan import Export
from pipeline.export.preprocessing import Preprocessing, write_preprocessing
from pipeline.export.readme import readme
from pipeline.export.runtime.engines import ENGINES
from pipeline.export.runtime.integrity import ABOUT, CHECKSUMS, FORMAT, digest
from pipeline.export.weights import load_weights
from pipeline.storage import sync_folder
from schemas.errors import InputError
from schemas.job import JobConfig

README = "README.md"
RUNTIME = Path(__file__).parent / "runtime"
KINDS = ("int64", "int64", "float32")
"""Of a list feature's inputs."""
LARGEST_DIFFERENCE = 1e-5
"""Of logits, between the network as it is exported and as it was trained, on the rows that try it."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What was exported."""

    bytes: int
    difference: float
    """Largest between a logit of the bundle and of the network it was made of, on rows that try it."""


def write_bundle(export: Export, tell: Callable[[str], None] = print) -> Written:
    """Writes the bundle. Raises InputError."""
    out = Path(export.out)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        difference = _write(export, draft, tell)
        size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
        sync_folder(draft)
        os.rename(draft, out)
        sync_folder(out.absolute().parent)
    except OSError as error:
        raise InputError(f"{export.out}: cannot be written ({error.strerror or error}); name another --out") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Written(size, difference)


def _write(export: Export, draft: Path, tell: Callable[[str], None]) -> float:
    job = export.job
    calibration = None if export.calibration is None else fitted(export)
    preprocessing = write_preprocessing(job, draft, export.day, tell)
    dense, tables = load_weights(export.commit, job)
    network = ScoringNetwork(job, dense, tables, export.tables)
    del tables
    program = exported(network, job)
    torch.export.save(program, draft / ENGINES["torch"])
    if export.aoti:
        tell("compiling with AOTInductor")
        compiled(program, draft / ENGINES["aoti"])
    if export.onnx:
        tell("translating to ONNX")
        written_as_onnx(network, job, draft / ENGINES["onnx"])
    engines = ["torch", *(["aoti"] if export.aoti else []), *(["onnx"] if export.onnx else [])]
    (draft / SCORER).mkdir()
    for file in sorted(RUNTIME.glob("*.py")):
        shutil.copyfile(file, draft / SCORER / file.name)
    files = {str(path.relative_to(draft)): digest(path) for path in sorted(draft.rglob("*")) if path.is_file()}
    about = _about(export, preprocessing, calibration, dict(files))
    (draft / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    (draft / README).write_text(readme(about, engines), encoding="utf-8")
    files |= {name: digest(draft / name) for name in (ABOUT, README)}
    (draft / CHECKSUMS).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    for path in [*draft.rglob("*")]:
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    difference = max(_difference(draft, network, job, engine) for engine in engines)
    shutil.rmtree(draft / SCORER / "__pycache__", ignore_errors=True)
    return difference


def _about(
    export: Export, preprocessing: Preprocessing, calibration: dict[str, Any] | None, files: dict[str, str]
) -> dict[str, Any]:
    job, commit = export.job, export.commit
    return {
        "format": FORMAT,
        "name": job.name,
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checkpoint": {"name": commit.name, "manifest_sha256": export.manifest_sha256, "step": commit.progress.step},
        "arch": job.model.arch,
        "tables": export.tables,
        "torch": torch.__version__,
        "fields": preprocessing.fields,
        "features": preprocessing.features,
        "data": files,
        "tasks": job.outputs,
        "fusion": None if job.fusion is None else job.fusion.model_dump(mode="json"),
        "calibration": calibration,
        "signature": {
            "inputs": [
                {"name": "numbers", "type": "float32", "shape": ["rows", len(job.dense)]},
                {"name": "ids", "type": "int64", "shape": ["rows", len(job.embedded) - len(_lists(preprocessing))]},
                *(
                    {"name": f"lists.{name}.{part}", "type": kind, "shape": [shape]}
                    for name in _lists(preprocessing)
                    for part, kind, shape in zip(PARTS, KINDS, ("elements", "rows + 1", "elements"), strict=True)
                ),
            ],
            "outputs": [{"name": "logits", "type": "float32", "shape": ["rows", len(job.tasks)]}],
        },
    }


def _lists(preprocessing: Preprocessing) -> list[str]:
    return [feature["name"] for feature in preprocessing.features if feature["kind"] in ("ids", "history")]


def _difference(draft: Path, network: ScoringNetwork, job: JobConfig, engine: str) -> float:
    """How far the written bundle is from the network, on random rows; raises InputError where it is another model."""
    bundle = load_bundle(str(draft), engine)
    random = torch.Generator().manual_seed(0)
    rows = 64

    def some(count: int, table: str) -> torch.Tensor:
        return torch.randint(0, job.tables[table].rows + 1, (count,), generator=random)

    numbers = torch.randn(rows, len(job.dense), generator=random)
    lists, ids = [], []
    for feature in job.embedded:
        if hasattr(feature, "pooling"):
            lengths = torch.randint(0, 5, (rows,), generator=random)
            lengths[-1] = 2
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            count = int(offsets[-1])
            lists.append((some(count, feature.table_name), offsets, torch.rand(count, generator=random)))
        else:
            ids.append(some(rows, feature.table_name))
    id_BI = torch.stack(ids, dim=1) if ids else torch.empty(rows, 0, dtype=torch.int64)
    with torch.inference_mode():
        trained = network(numbers, id_BI, lists)
    arrays = [tuple(part.numpy() for part in each) for each in lists]
    got = torch.from_numpy(bundle.network(numbers.numpy(), id_BI.numpy(), arrays))
    largest = float((got - trained).abs().max())
    allowed = LARGEST_DIFFERENCE * max(1.0, float(trained.abs().max()))
    if not largest <= allowed:
        raise InputError(
            f"the exported model's logits are up to {largest:.3g} from the trained one's, on random rows; "
            + (
                "this torch exports the model wrongly; try another version"
                if engine == "torch"
                else f"export without --{engine}"
            )
        )
    return largest


__all__ = ["Stored", "Written", "write_bundle"]
