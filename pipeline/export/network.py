"""The scoring network: plain torch, tables as nn.EmbeddingBag's arithmetic, in fp32, fp16 or int8 -> a .pt2 file.

Shapes: B rows, F numbers, I features of one id, M elements of all B lists of a feature, R rows of a table, D its width,
T tasks.
"""

from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.model import DenseNetwork
from schemas.features import ListFeature
from schemas.job import JobConfig

Stored = Literal["fp32", "fp16", "int8"]
Lists = list[tuple[Tensor, Tensor, Tensor]]
"""Of each list feature: rows of its table [M], offsets [B + 1], weights [M]."""


class Table(nn.Module):
    """One table as it is stored; what is read of it is fp32."""

    code: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, weight_RD: Tensor, stored: Stored) -> None:
        super().__init__()
        self.stored, self.adds = stored, False
        if stored == "int8":
            code_RD, scale_R2 = quantized(weight_RD)
            self.register_buffer("code", code_RD)
            self.register_buffer("scale", scale_R2)
        else:
            self.register_buffer("weight", weight_RD.half() if stored == "fp16" else weight_RD)

    def rows(self, row_M: Tensor) -> Tensor:
        """x_MD."""
        if self.stored == "int8":
            scale_M2 = F.embedding(row_M, self.scale)
            return F.embedding(row_M, self.code).float() * scale_M2[:, :1] + scale_M2[:, 1:]
        return F.embedding(row_M, self.weight).float()

    def bags(self, row_M: Tensor, offset_B: Tensor, weight_M: Tensor) -> Tensor:
        """x_BD, each list's weighted sum; by additions one by one where `adds`, since ONNX knows no bags."""
        if self.adds:
            return _added(self.rows(row_M) * weight_M[:, None], offset_B)
        if self.stored == "fp32":
            table = self.weight
        else:  # the rows that are read, and no more, as a table of their own
            table, row_M = self.rows(row_M), torch.arange(row_M.shape[0], device=row_M.device)
        return F.embedding_bag(
            row_M, table, offset_B, mode="sum", per_sample_weights=weight_M, include_last_offset=True
        )


def _added(x_MD: Tensor, offset_B: Tensor) -> Tensor:
    """x_BD, of each list the sum of its elements."""
    end_B = offset_B[1:]
    ends_M = torch.zeros(x_MD.shape[0] + 1, dtype=torch.int64).scatter_add(0, end_B, torch.ones_like(end_B))
    list_M = ends_M[:-1].cumsum(0)  # as many lists as end at or before an element come before its own
    return torch.zeros(end_B.shape[0], x_MD.shape[1]).index_add(0, list_M, x_MD)


def quantized(weight_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in 8 bits: uint8 codes, and the step and least value by which they become numbers again.

    A number is at most half a step, (max - min) / 510 of its row, from what it was.
    """
    least_R1, most_R1 = weight_RD.amin(1, keepdim=True), weight_RD.amax(1, keepdim=True)
    step_R1 = ((most_R1 - least_R1) / 255).clamp(min=torch.finfo(torch.float32).tiny)
    code_RD = ((weight_RD - least_R1) / step_R1).round().clamp(0, 255).to(torch.uint8)
    return code_RD, torch.cat([step_R1, least_R1], dim=1)


class ScoringNetwork(nn.Module):
    """Encoded rows -> logits_BT in fp32, as the trained model evaluates them."""

    def __init__(self, job: JobConfig, dense: DenseNetwork, tables: dict[str, Tensor], stored: Stored) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({_key(name): Table(weight_RD, stored) for name, weight_RD in tables.items()})
        self.dense = dense.eval()
        lists = [f.name for f in job.features if isinstance(f, ListFeature)]
        ids = [f.name for f in job.embedded if f.name not in lists]
        prefixes = [f"{task.name}." for task in job.tasks] if job.separate_embeddings else [""]
        self._separate = job.separate_embeddings
        self._reads = [
            [
                (_key(f"{prefix}{f.table_name}"), f.name in lists, (lists if f.name in lists else ids).index(f.name))
                for f in job.embedded
            ]
            for prefix in prefixes
        ]
        """Of each task with tables of its own, or of all: table, list or not, and place, in the YAML's order."""

    def forward(self, dense_BF: Tensor, id_BI: Tensor, lists: Lists) -> Tensor:
        """logits_BT."""
        inputs = []
        for reads in self._reads:
            parts = [
                self._table(table).bags(*lists[at]) if listed else self._table(table).rows(id_BI[:, at])
                for table, listed, at in reads
            ]
            inputs.append(torch.cat([*parts, dense_BF], dim=1))
        x = torch.stack(inputs, dim=1) if self._separate else inputs[0]
        towers = self.dense.towers
        return towers.logits(towers.last_layers(self.dense.arch(x))).float()

    def _table(self, key: str) -> Table:
        return cast(Table, self.tables[key])


PARTS = ("rows", "offsets", "weights")
"""Of a list feature's inputs."""


def _key(table: str) -> str:
    return "table_" + table.replace(".", "-")


def exported(network: ScoringNetwork, job: JobConfig) -> torch.export.ExportedProgram:
    """The network for any number of rows and elements from 2 on, of which the scorer never gives it fewer."""
    rows = torch.export.Dim("rows", min=2, max=1 << 24)
    lists = [f for f in job.features if isinstance(f, ListFeature)]
    sizes = [torch.export.Dim(f"elements_{at}", min=2, max=1 << 31) for at in range(len(lists))]
    example: Lists = [
        (torch.zeros(6 + at, dtype=torch.int64), torch.tensor([0, 2, 3, 6 + at]), torch.ones(6 + at))
        for at in range(len(lists))
    ]
    ids = len(job.embedded) - len(lists)
    given = (torch.zeros(3, len(job.dense)), torch.zeros(3, ids, dtype=torch.int64), example)
    shapes = ({0: rows}, {0: rows}, [({0: size}, {0: rows + 1}, {0: size}) for size in sizes])
    with torch.no_grad():
        return torch.export.export(network, given, dynamic_shapes=shapes, strict=False)


def written_as_onnx(network: ScoringNetwork, job: JobConfig, path: Path) -> None:
    """Writes the network for ONNX Runtime and others that read ONNX. Needs onnx and onnxscript."""
    tables = [table for table in network.tables.values() if isinstance(table, Table)]
    lists = [f"lists.{f.name}.{part}" for f in job.features if isinstance(f, ListFeature) for part in PARTS]
    for table in tables:
        table.adds = True
    try:
        program = torch.onnx.export(
            exported(network, job),
            dynamo=True,
            verbose=False,
            input_names=["numbers", "ids", *lists],
            output_names=["logits"],
        )
    finally:
        for table in tables:
            table.adds = False
    assert program is not None
    program.save(path)


def compiled(program: torch.export.ExportedProgram, path: Path) -> None:
    """Writes the AOTInductor package: machine code for this machine's processor. Needs a C++ compiler."""
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
