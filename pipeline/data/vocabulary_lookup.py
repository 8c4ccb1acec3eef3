"""Values of features -> rows of their tables, through the vocabularies the job declares. No torch, no Python per value.

A rank reads each file once, and keeps what it read: a file that changes under a run changes nothing.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.hashing import fnv1a, nulls_apart, through_dictionary
from pipeline.data.perfect_hash import PerfectHash
from pipeline.data.vocabulary_file import Vocabulary, read_vocabulary
from schemas.errors import InputError
from schemas.features import StringFeature, ValuedFeature
from schemas.identity import digest, entries
from schemas.job import JobConfig

Int64 = npt.NDArray[np.int64]


class IntegerLookup:
    """Rows of integers; `unknown` for those that the vocabulary does not list."""

    def __init__(self, vocabulary: Vocabulary, unknown: int) -> None:
        self._hash = _integer_hash(vocabulary)
        self._unknown = unknown

    def __call__(self, id_N: Int64) -> Int64:
        """Table row of each id, shape [N]."""
        return self._hash(id_N, self._unknown)


class StringLookup:
    """Rows of strings, found through their 64-bit FNV-1a and compared byte by byte."""

    def __init__(self, vocabulary: Vocabulary, unknown: int) -> None:
        self._values = vocabulary.values
        self._hash, self._twins = _string_hash(vocabulary)
        self._unknown = unknown

    def __call__(self, column: pa.Array) -> Int64:
        """Table row of each string, through the column's dictionary, shape [N]; -1 where null."""
        return through_dictionary(column, self._rows)

    def distinct(self, strings: pa.Array) -> Int64:
        """The same for strings that hardly repeat, such as those of a dictionary."""
        return nulls_apart(strings, self._rows)

    def _rows(self, strings: pa.Array) -> Int64:
        hash_N = fnv1a(strings).view(np.int64)
        row_N = self._hash(hash_N, -1)
        found = pc.take(self._values, pa.array(row_N, mask=row_N < 0))
        same = pc.fill_null(pc.equal(found, strings.cast(pa.large_string())), False)
        row_N = np.where(same.to_numpy(zero_copy_only=False), row_N, self._unknown)
        for index in np.flatnonzero(np.isin(hash_N, list(self._twins))) if self._twins else ():
            row_N[index] = self._twins[int(hash_N[index])].get(strings[index].as_py(), self._unknown)
        return row_N


Lookup = IntegerLookup | StringLookup


def lookups(job: JobConfig) -> dict[str, Lookup]:
    """The look-up of each feature that has a vocabulary."""
    return {
        f.name: (StringLookup if isinstance(f, StringFeature) else IntegerLookup)(
            vocabularies(job)[f.name], job.tables[f.table_name].rows
        )
        for f in job.valued
        if f.vocabulary
    }


def vocabularies(job: JobConfig) -> dict[str, Vocabulary]:
    """The vocabulary of each feature that has one. Raises InputError for one that is broken, or too long."""
    return {f.name: vocabulary_of(job, f, _read) for f in job.valued if f.vocabulary}


def vocabulary_of(
    job: JobConfig, feature: ValuedFeature, read: Callable[[str, bool], Vocabulary] = read_vocabulary
) -> Vocabulary:
    """The vocabulary that a feature names. Raises InputError for one that is broken, or too long."""
    assert feature.vocabulary is not None
    try:
        vocabulary = read(feature.vocabulary, isinstance(feature, StringFeature))
    except InputError as error:
        raise InputError(f"features.{feature.name}.vocabulary: {error}") from error
    rows, count = job.tables[feature.table_name].rows, len(vocabulary.values)
    if rows < count:
        raise InputError(
            f"tables.{feature.table_name}.rows: {rows:,} rows for the {count:,} entries of "
            f"'{feature.vocabulary}'; set it to {count} or more, or write the file with --max-rows {rows}"
        )
    return vocabulary


def fingerprints(job: JobConfig) -> dict[str, str]:
    """ENTRIES:SHA256 of each feature's vocabulary: what ranks agree on, and what a run, or its child, goes on with."""
    return {
        name: f"{len(vocabulary.values)}:{vocabulary.fingerprint}" for name, vocabulary in vocabularies(job).items()
    }


def extends(job: JobConfig, feature: str, told: str) -> bool:
    """Whether the feature's vocabulary begins with all the values that an ENTRIES:SHA256 tells of, and has more."""
    count, values = entries(told), vocabularies(job)[feature].values
    if count is None or count >= len(values):
        return False
    return Vocabulary("", values[:count]).fingerprint == digest(told)


# One of each for all features, epochs and evaluations of a process.
_read = cache(read_vocabulary)


@cache
def _integer_hash(vocabulary: Vocabulary) -> PerfectHash:
    return PerfectHash(vocabulary.values.to_numpy())


@cache
def _string_hash(vocabulary: Vocabulary) -> tuple[PerfectHash, dict[int, dict[str, int]]]:
    """The hash of the strings' hashes; and of strings that share one, by it, each string's row."""
    key_N = fnv1a(vocabulary.values).view(np.int64)
    distinct, first_N, count_N = np.unique(key_N, return_index=True, return_counts=True)
    twins: dict[int, dict[str, int]] = {}
    if len(distinct) == len(key_N):
        return PerfectHash(key_N), twins
    for row in np.flatnonzero(np.isin(key_N, distinct[count_N > 1])):
        twins.setdefault(int(key_N[row]), {})[vocabulary.values[row].as_py()] = int(row)
    # one of them keeps the key; the others get keys that no entry has, and are found among the twins alone
    others = np.setdiff1d(np.arange(len(key_N)), first_N)
    key_N = key_N.copy()
    key_N[others] = np.setdiff1d(np.arange(2 * len(key_N)), key_N)[: len(others)]
    return PerfectHash(key_N), twins
