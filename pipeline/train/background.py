"""A save that goes on behind training: a copy of the state, and the one thread that writes it."""

import threading
from collections.abc import Callable
from typing import Any

import torch

from pipeline.train.pieces import Pieces, State
from schemas.errors import InputError


class Staging:
    """Host buffers that a state is copied into, used again by the next save.

    Of DCP's own stagers the one for CPU tensors may hand on the live tensor: training would go on under the writer,
    and the checkpoint would hold some tensors of one step and some of another.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    @torch.no_grad()
    def copy(self, state: State) -> State:
        """The state in memory of its own, at the moment of the call."""
        buffers: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        out: State = {}
        cuda = False
        for name, pieces in state.items():
            parts = []
            for offsets, live in pieces.parts:
                buffer = self._buffers.get((name, offsets))
                if buffer is None or buffer.shape != live.shape or buffer.dtype != live.dtype:
                    buffer = torch.empty(live.shape, dtype=live.dtype, pin_memory=live.is_cuda)
                buffer.copy_(live, non_blocking=True)
                cuda |= live.is_cuda
                buffers[name, offsets] = buffer
                parts.append((offsets, buffer))
            out[name] = Pieces(pieces.shape, parts)
        if cuda:
            torch.cuda.synchronize()
        self._buffers = buffers
        return out


class Background:
    """One act at a time in a thread of its own; its failure is raised by `wait`."""

    def __init__(self, timeout_seconds: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._thread: threading.Thread | None = None
        self._what = ""
        self._result: Any = None
        self._failure: BaseException | None = None
        self._then: Callable[[Any], None] = lambda _: None

    def start(self, what: str, act: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Begins `act`; `then` gets its result inside `wait`, in the caller's thread."""
        assert self._thread is None, "one at a time"
        self._what, self._then, self._failure, self._result = what, then, None, None

        def run() -> None:
            try:
                self._result = act()
            except BaseException as error:  # whatever it is, it is raised where training can see it
                self._failure = error

        # a daemon: a process that fails elsewhere must not hang on a storage that does not answer
        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def ready(self) -> bool:
        """Whether `wait` would not have to wait."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Ends the act that was begun, if any, and raises what it raised.

        Raises InputError after `timeout_seconds`: the storage does not answer, or a rank is gone.
        """
        if self._thread is None:
            return
        self._thread.join(self._timeout_seconds)
        stuck, self._thread = self._thread.is_alive(), None  # who waits again has nothing to wait for
        if stuck:
            raise InputError(
                f"{self._what}, written in the background, has not ended within {self._timeout_seconds} s; see whether "
                "the storage answers, or raise train.timeout_seconds. The checkpoint before it is whole"
            )
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        self._then(self._result)
