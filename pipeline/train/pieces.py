"""One rank's pieces of whole tensors, in terms that no sharding plan enters, and how DCP reads and writes them."""

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from pipeline.train.checkpoint_store import CheckpointStore, FileNote


@dataclasses.dataclass
class Pieces:
    """What this rank holds of one whole tensor: nothing, all of it, or some boxes."""

    shape: tuple[int, ...]
    """Of the whole."""
    parts: list[tuple[tuple[int, ...], Tensor]]
    """Where each box begins, and its values; a view of the live tensor unless staged."""

    @staticmethod
    def whole(tensor: Tensor) -> "Pieces":
        """A tensor that every rank holds, or that belongs to this rank alone."""
        return Pieces(tuple(tensor.shape), [((0,) * tensor.dim(), tensor.detach())])

    def size(self) -> torch.Size:
        """DCP compares it with the saved one."""
        return torch.Size(self.shape)

    # the three methods of torch.distributed._checkpointable, by which DCP takes any object

    def __create_write_items__(self, name: str, _: Any) -> list[WriteItem]:
        return [
            WriteItem(
                index=MetadataIndex(name, torch.Size(offsets)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=ChunkStorageMetadata(torch.Size(offsets), values.size()),
                    properties=TensorProperties(dtype=values.dtype),
                    size=self.size(),
                ),
            )
            for offsets, values in self.parts
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size(offsets), values.size()) for offsets, values in self.parts]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return next(values for offsets, values in self.parts if torch.Size(offsets) == index.offset)


State: TypeAlias = dict[str, Pieces]
"""Everything that is saved, by its plan-free name."""


class SavePlanner(DefaultSavePlanner):
    """DCP's own planner over a flat State; a tensor that several ranks hold is written by one of them."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The piece that is written."""
        return self.state_dict[index.fqn].__get_tensor_shard__(index)


class LoadPlanner(DefaultLoadPlanner):
    """DCP's own planner over a flat State, filled in place."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        """Takes the State as it is: nothing in it waits to be allocated."""
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The piece that is read into."""
        return self.state_dict[index.fqn].__get_tensor_shard__(index)


def reader(store: CheckpointStore, name: str) -> FileSystemReader:
    """DCP's reader of a commit."""
    if store.local:
        return FileSystemReader(store.where(name))
    made = FsspecReader(store.address(name))
    _use(store, made)
    return made


def writer(store: CheckpointStore, name: str) -> "tuple[FileSystemWriter, dict[str, FileNote]]":
    """DCP's writer of a new attempt, and what it will have written, by file, once it has.

    A local file is flushed to disk before the manifest is; of an object the PUT says so itself.
    """
    made: FileSystemWriter
    if store.local:
        made = FileSystemWriter(store.where(name), overwrite=False)
    else:
        made = FsspecWriter(store.address(name), sync_files=False, overwrite=False)
        _use(store, made)
    files = _NotedFiles(made.fs)
    setattr(made, "fs", files)  # noqa: B010 - DCP's seam for filesystems
    return made, files.notes


def _use(store: CheckpointStore, made: FsspecReader | FsspecWriter) -> None:
    """DCP opens a filesystem of its own, which knows nothing of the store's time-outs."""
    setattr(made.fs, "fs", store.fs)  # noqa: B010 - as below


class _NotedFiles:
    """A DCP filesystem that notes size and hash of each file as it is written: nothing is read back for it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.notes: dict[str, FileNote] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with self._inner.create_stream(path, mode) as stream:
            noted = _NotedStream(stream)
            yield noted if mode == "wb" else stream
        if mode == "wb":
            self.notes[Path(path).name] = FileNote(noted.bytes, noted.digest.hexdigest())

    def rename(self, path: Any, new_path: Any) -> None:
        self._inner.rename(path, new_path)
        self.notes[Path(new_path).name] = self.notes.pop(Path(path).name)


class _NotedStream:
    """A stream that only grows, and hashes what goes by."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.bytes = 0
        self.digest = hashlib.sha256()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, content: Any) -> int:
        self.digest.update(content)
        self.bytes += len(memoryview(content).cast("B"))
        return self._stream.write(content)

    def seek(self, *_: Any) -> int:
        raise OSError("a checkpoint's file is written from front to end: its hash is taken on the way")


def reason(error: CheckpointException) -> str:
    """The first failed rank's own words, one line of them."""
    first = next(iter(error.failures.values()), None)
    cause = first[0] if isinstance(first, tuple) else first
    return str(cause or error).split("\n", 1)[0]
