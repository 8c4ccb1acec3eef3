"""What runs a bundle's network: torch, machine code by AOTInductor, or ONNX Runtime, loaded where it is asked for.

Shapes: N rows, F numbers, I features of one id, M elements of all N lists of a feature, T tasks.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BundleError

ENGINES = {"torch": "model.pt2", "aoti": "model.aoti.pt2", "onnx": "model.onnx"}
"""Names, and the file that each reads."""
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Lists = Sequence[tuple[Int64, Int64, Float32]]
"""Of each list feature: rows of its table [M], offsets [N + 1], weights [M]."""
Network = Callable[[Float32, Int64, Lists], Float32]
"""number_NF, id_NI and lists -> logit_NT; at least two rows, and two elements of each list."""


def network(folder: Path, engine: str, threads: int | None = None) -> Network:
    """The network, on so many threads or as many as the engine takes by itself. Raises BundleError."""
    if engine not in ENGINES:
        raise BundleError(f"engine '{engine}' is none of {', '.join(ENGINES)}")
    path = folder / ENGINES[engine]
    if not path.exists():
        raise BundleError(f"{folder}: was exported without --{engine} and has no {path.name}; take another engine")
    return _onnx(path, threads) if engine == "onnx" else _torch(path, engine, threads)


def _torch(path: Path, engine: str, threads: int | None) -> Network:
    try:
        import torch
    except ImportError:
        raise BundleError(f"engine '{engine}' needs torch, which is not installed") from None

    if threads is not None:
        torch.set_num_threads(threads)
    run: Any = torch.export.load(path).module() if engine == "torch" else torch._inductor.aoti_load_package(str(path))

    def logits(number_NF: Float32, id_NI: Int64, lists: Lists) -> Float32:
        tensors = [tuple(map(torch.from_numpy, each)) for each in lists]
        with torch.inference_mode():
            return run(torch.from_numpy(number_NF), torch.from_numpy(id_NI), tensors).numpy()

    return logits


def _onnx(path: Path, threads: int | None) -> Network:
    try:
        import onnxruntime
    except ImportError:
        raise BundleError("engine 'onnx' needs onnxruntime, which is not installed") from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def logits(number_NF: Float32, id_NI: Int64, lists: Lists) -> Float32:
        given = [number_NF, id_NI, *(part for each in lists for part in each)]
        return session.run(None, dict(zip(names, given, strict=True)))[0]

    return logits
