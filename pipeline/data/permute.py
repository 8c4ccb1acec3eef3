"""Parts of Rows -> the rows of a shuffle block in their new order."""

import dataclasses
import itertools
from collections.abc import Sequence

import fbgemm_gpu  # noqa: F401 - registers torch.ops.fbgemm
import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.rows import MATRICES, Int64, Layout, Lists, Part, Rows


def permuted(layout: Layout, parts: Sequence[Part], row_N: Int64) -> Rows:
    """The rows `row_N` of the parts end to end, in this order; there is at least one part."""
    rows = Rows.empty(layout, len(row_N))
    for name in MATRICES:
        _permute([getattr(p.rows, name)[:, p.begin : p.end] for p in parts], row_N, getattr(rows, name))
    row_id_N = np.concatenate([p.rows.row_id_N[p.begin : p.end] for p in parts])
    np.take(row_id_N, row_N, out=rows.row_id_N, mode="clip")
    for name in layout.lists:
        rows.lists[name] = _permuted_lists([(p.rows.lists[name], p.begin, p.end) for p in parts], row_N)
    unknown = frozenset[str]().union(*(p.rows.unknown for p in parts))
    return dataclasses.replace(rows, unknown=unknown, flagged=any(p.rows.flagged for p in parts))


def unflagged(layout: Layout, parts: Sequence[Part]) -> tuple[list[Part], Int64]:
    """The parts without their flagged rows, and those rows' ids."""
    kept, flagged = [], []
    for part in parts:
        row_id_N = part.rows.row_id_N[part.begin : part.end]
        if part.rows.flagged and (row_id_N < 0).any():
            kept_N = np.flatnonzero(row_id_N >= 0)
            flagged.append(row_id_N[row_id_N < 0])
            part = Part(dataclasses.replace(permuted(layout, [part], kept_N), flagged=False), 0, len(kept_N))
        kept.append(part)
    return kept, np.concatenate([np.empty(0, np.int64), *flagged])


def _permute(parts_XN: list[npt.NDArray], row_N: Int64, out_XN: npt.NDArray) -> None:
    """Column by column: first into a scratch that stays in the cache, then gathered from there."""
    edges = np.cumsum([0, *(x.shape[1] for x in parts_XN)]).tolist()
    scratch_N = np.empty(edges[-1], out_XN.dtype)
    places = [scratch_N[a:b] for a, b in itertools.pairwise(edges)]
    for *columns, out_N in zip(*parts_XN, out_XN, strict=True):
        if len(columns) == 1:
            scratch_N = columns[0]
        else:
            for place, column in zip(places, columns, strict=True):
                place[:] = column
        # clip: numpy copies once more where it checks, and row_N is a permutation
        scratch_N.take(row_N, out=out_N, mode="clip")


def _permuted_lists(parts: Sequence[tuple[Lists, int, int]], row_N: Int64) -> Lists:
    """The lists `row_N` of the parts end to end, in this order."""
    spans = [lists.span(begin, end) for lists, begin, end in parts]
    length_N = np.concatenate([np.diff(lists.offset_N[begin : end + 1]) for lists, begin, end in parts])
    weights = [x.weight_M[span] for (x, _, _), span in zip(parts, spans, strict=True) if x.weight_M is not None]
    offset_N = np.zeros(len(row_N) + 1, np.int32)
    np.cumsum(length_N[row_N], out=offset_N[1:])
    # one copy a list, without the interpreter's lock: in numpy it takes an index an element
    _, id_M, weight_M = torch.ops.fbgemm.permute_1D_sparse_data(
        torch.from_numpy(row_N.astype(np.int32)),
        torch.from_numpy(length_N),
        torch.from_numpy(np.concatenate([x.id_M[span] for (x, _, _), span in zip(parts, spans, strict=True)])),
        torch.from_numpy(np.concatenate(weights)) if weights else None,
        int(offset_N[-1]),
    )
    return Lists(offset_N, id_M.numpy(), None if weight_M is None else weight_M.numpy())
