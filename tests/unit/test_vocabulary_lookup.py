"""Values to rows through vocabulary files: as a Python dict would, on any form of column; broken files by name."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare.runs import runs_of
from pipeline.data import vocabulary_lookup
from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.vocabulary_file import Vocabulary, read_vocabulary
from pipeline.data.vocabulary_lookup import IntegerLookup, StringLookup, extends, fingerprints, vocabularies
from schemas.errors import InputError
from schemas.identity import VOCABULARIES, digest, entries, fingerprint
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import Override, override, set_key, small_config, small_job, small_table, write_log
from tests.unit.test_encode import by_name

ROWS = 6
TEXTS = st.text(max_size=6)


def write(path: Path, values: Any, **columns: Any) -> str:
    pq.write_table(pa.table({"value": values, **columns}), path)
    return str(path)


def words(*values: str) -> Vocabulary:
    return Vocabulary("words", pa.array(values, pa.large_string()))


# values to rows


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, unique=True, max_size=12), st.lists(st.one_of(st.none(), TEXTS), max_size=12), st.data())
def test_a_string_has_its_place_however_it_is_stored(
    listed: list[str], texts: list[str | None], data: st.DataObject
) -> None:
    texts = data.draw(st.permutations([*texts, *listed[:5]]))
    begin = data.draw(st.integers(0, len(texts)))
    place = {text: row for row, text in enumerate(listed)}
    expected = [-1 if text is None else place.get(text, 99) for text in texts][begin:]
    find = StringLookup(words(*listed), unknown=99)
    plain = pa.array(texts, pa.string())
    forms = [plain, plain.cast(pa.large_string()), plain.dictionary_encode()]
    # a dictionary in another order, with an entry that no row has and one that stands for null
    entries = [*data.draw(st.permutations(sorted({t for t in texts if t is not None}))), "spare", None]
    index = pa.array([entries.index(text) for text in texts], pa.int8())
    forms.append(pa.DictionaryArray.from_arrays(index, pa.array(entries, pa.string())))
    for column in forms:
        assert find(column.slice(begin)).tolist() == expected


def test_strings_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """64-bit FNV-1a has no known collision of common words, so a hash of the length stands for it."""

    def by_length(strings: pa.Array) -> np.ndarray:
        return np.array([len(text or "") for text in strings.to_pylist()], np.uint64)

    monkeypatch.setattr(vocabulary_lookup, "fnv1a", by_length)
    listed = ["oslo", "lima", "graz", "", "porto", "kyoto"]
    find = StringLookup(words(*listed), unknown=99)
    asked = pa.array(["kyoto", "graz", "lima", "oslo", "rome", "porto", "paris", "", "x", None])
    assert find(asked).tolist() == [5, 2, 1, 0, 99, 4, 99, 3, 99, -1]


def test_an_equal_hash_alone_is_not_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_lookup, "fnv1a", lambda strings: np.full(len(strings), 7, np.uint64))
    assert StringLookup(words("oslo"), unknown=9)(pa.array(["oslo", "lima"])).tolist() == [0, 9]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.uint64()])
def test_integers_of_any_width(kind: pa.DataType, tmp_path: Path) -> None:
    path = write(tmp_path / "ids.parquet", pa.array([7, 0, 100], kind))
    find = IntegerLookup(read_vocabulary(path, strings=False), unknown=50)
    assert find(np.array([0, 7, 100, 1, -7, 2**62])).tolist() == [1, 0, 2, 50, 50, 50]


def encoded(changes: dict[str, Any], **columns: Override) -> dict[str, list]:
    batch = override(small_table(ROWS), columns).combine_chunks().to_batches()[0]
    encode = Encoder(small_job("log", changes=changes))
    rows = encode(batch, np.arange(ROWS), Where("part", 0, 0))
    out = by_name(encode, rows)
    # what the counts of unknown ids rely on
    for feature in encode.job.valued:
        found = [row for ids in out[feature.name] for row in (ids if isinstance(ids, list) else [ids])]
        assert feature.name in rows.unknown or encode.job.tables[feature.table_name].rows not in found
    return out


def test_features_read_their_rows_from_the_files(tmp_path: Path) -> None:
    ids = write(tmp_path / "item.parquet", pa.array([7, -5, 2**63 - 1]))
    cities = write(tmp_path / "city.parquet", pa.array(["Łódź", "Oslo", ""]))
    changes = {f"features.{name}.vocabulary": ids for name in ("item", "history", "recent")}
    changes |= {"features.city.vocabulary": cities, "features.item.missing": "unknown"}
    changes["features.city.missing"] = "unknown"
    lists = pa.array([[7, 0], [], [-5], [2**63 - 1], [1], [7, 7]])
    out = encoded(
        changes,
        item_id=pa.array([7, -5, 0, None, 2**63 - 1, 7]),
        recent=lists,
        city=pa.array(["Oslo", "oslo", "Łódź", None, "", "Graz"]),
    )
    assert out["item"] == [0, 1, 40, 40, 2, 0], "40 is the item table's out-of-vocabulary row"
    assert out["recent"] == [[0, 40], [], [1], [2], [40], [0, 0]]
    assert out["city"] == [1, 20, 0, 20, 2, 20]


def test_large_unsigned_ids_are_the_negative_ones_of_their_bits(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", pa.array([2**64 - 1, 2**63, 5], pa.uint64()))
    column = pa.array([5, 2**63, 2**64 - 1, 1, 5, 5], pa.uint64())
    assert encoded({"features.user.vocabulary": path}, user_id=column)["user"] == [2, 1, 0, 50, 2, 2]


# files


def test_a_file_on_any_storage_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    with fs.open("/vocabularies/user.parquet", "wb") as sink:
        pq.write_table(pa.table({"value": [3, 4]}), sink)
    job = small_job("log", changes={"features.user.vocabulary": "memory://vocabularies/user.parquet"})
    assert vocabularies(job)["user"].values.to_pylist() == [3, 4]
    fs.rm("/vocabularies/user.parquet")
    assert Encoder(job)._lookups["user"](np.array([4, 5])).tolist() == [1, 50]


def refusal(path: str, feature: str = "user") -> str:
    with pytest.raises(InputError) as caught:
        vocabularies(small_job("log", changes={f"features.{feature}.vocabulary": path}))
    return str(caught.value).replace(path, "FILE")


@pytest.mark.parametrize(
    ("feature", "values", "said"),
    [
        (
            "user",
            pa.array([3, 1, 4, 1, 3]),
            "FILE: column 'value' holds 1 in row 3, and in an earlier row; a value has",
        ),
        ("city", pa.array(["a", "b", "a"]), "FILE: column 'value' holds 'a' in row 2, and in an earlier row; a value"),
        ("user", pa.array([3, None, 4]), "FILE: column 'value' is null in row 1; leave nulls out of a vocabulary"),
        ("user", pa.array(["3"]), "FILE: column 'value' holds string where the feature needs integers; name another"),
        ("city", pa.array([3]), "FILE: column 'value' holds int64 where the feature needs strings; name another"),
        ("user", pa.array([1.5]), "FILE: column 'value' holds double where the feature needs integers; name another"),
        (
            "user",
            pa.array([], pa.int64()),
            "FILE: column 'value' has no row; ./launch.sh vocabulary CONFIG.yaml --write",
        ),
    ],
)
def test_a_broken_file_is_named_with_column_and_row(feature: str, values: pa.Array, said: str, tmp_path: Path) -> None:
    told = refusal(write(tmp_path / "broken.parquet", values), feature)
    assert told.startswith(f"features.{feature}.vocabulary: {said}")


def test_a_missing_file_a_torn_one_and_one_of_other_columns(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "none.parquet")).startswith("features.user.vocabulary: FILE: no such file; mend the")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    assert "FILE: not a whole Parquet file" in refusal(str(tmp_path / "torn.parquet"))
    pq.write_table(pa.table({"id": [1], "n": [2]}), tmp_path / "other.parquet")
    assert "FILE: a vocabulary has one column 'value', this file has id, n" in refusal(str(tmp_path / "other.parquet"))
    path = tmp_path / "flipped.parquet"
    pq.write_table(pa.table({"value": np.arange(1000)}), path, write_page_checksum=True, use_dictionary=False)
    whole = bytearray(path.read_bytes())
    whole[200] ^= 1
    path.write_bytes(whole)
    assert "FILE: column 'value' cannot be decoded" in refusal(str(path))


def test_a_table_holds_its_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", np.arange(50))
    assert len(vocabularies(small_job("log", changes={"features.user.vocabulary": path}))["user"].values) == 50
    path = write(tmp_path / "users.parquet", np.arange(51))
    assert refusal(path).startswith("tables.user.rows: 50 rows for the 51 entries of 'FILE'; set it to 51 or more, or")


def test_the_fingerprint_is_of_the_values_in_their_order(tmp_path: Path) -> None:
    def of(name: str, values: pa.Array, strings: bool, **options: Any) -> str:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"value": values, **options.pop("more", {})}), path, **options)
        return read_vocabulary(str(path), strings).fingerprint

    ids = of("ids", pa.array([3, 1, 2]), False)
    assert of("other", pa.array([3, 1, 2], pa.int8()), False, compression="zstd", more={"count": [1, 2, 3]}) == ids
    assert of("chunks", pa.array([3, 1, 2]), False, row_group_size=1) == ids
    assert len({ids, of("order", pa.array([1, 3, 2]), False), of("longer", pa.array([3, 1, 2, 4]), False)}) == 3
    texts = [["ab", "c"], ["a", "bc"], ["abc", ""], ["c", "ab"]]
    assert len({of(f"t{n}", pa.array(text), True) for n, text in enumerate(texts)}) == 4
    chunked = of("chunked", pa.array(["ab", "c"]), True, row_group_size=1)
    assert chunked == of("large", pa.array(["ab", "c"], pa.large_string()), True)
    assert words("x", "ab", "c", "y").values.slice(1, 2).to_pylist() == ["ab", "c"]
    assert Vocabulary("slice", words("x", "ab", "c", "y").values.slice(1, 2)).fingerprint == chunked


def test_fingerprints_are_by_feature(tmp_path: Path) -> None:
    path = write(tmp_path / "user.parquet", [1, 7])
    assert fingerprints(small_job("log")) == {}
    held = read_vocabulary(path, False).fingerprint
    assert fingerprints(small_job("log", changes={"features.user.vocabulary": path})) == {"user": f"2:{held}"}
    assert (entries(f"2:{held}"), digest(f"2:{held}")) == (2, held)
    assert (entries(held), digest(held)) == (None, held), "as older versions told it"


def test_what_is_bound_to_a_job_is_bound_to_its_values_and_not_to_how_they_are_told(tmp_path: Path) -> None:
    """Results of older versions, which told no number of values, stay those of their job."""
    path = write(tmp_path / "user.parquet", [1, 7])
    config = small_config("log", tmp_path / "out")
    set_key(config, "features.user.vocabulary", path)
    job = parse_job(config, "test")
    saved = job.model_dump(mode="json", by_alias=True)
    now = fingerprints(job)
    before = {"user": digest(now["user"])}
    assert fingerprint(saved | {VOCABULARIES: now}) == fingerprint(saved | {VOCABULARIES: before})
    assert fingerprint(saved | {VOCABULARIES: now}) != fingerprint(saved | {VOCABULARIES: {"user": "2:abc"}})
    write_log(tmp_path / "log", rows_per_day=5)
    data = job.data.model_copy(update={"path": str(tmp_path / "log")})
    (run,) = runs_of({"a": job.model_copy(update={"data": data})}, [0], tmp_path / "compared", 1)
    assert run.rows.vocabularies == before


INTEGERS = [5, -3, 2**40, 8, 0]
STRINGS = ["Oslo", "", "Łódź", "ab", "c"]


@pytest.mark.parametrize(("feature", "listed"), [("user", INTEGERS), ("city", STRINGS)])
def test_a_vocabulary_extends_another_whose_values_it_begins_with(
    feature: str, listed: list[Any], tmp_path: Path
) -> None:
    def job_of(name: str, values: list[Any]) -> JobConfig:
        path = write(tmp_path / f"{name}.parquet", values)
        return small_job("log", changes={f"features.{feature}.vocabulary": path})

    other = [3, 4] if feature == "user" else ["a", "bc"]
    told = fingerprints(job_of("old", listed))[feature]
    assert extends(job_of("more", listed + other), feature, told)
    for name, values in {
        "same": listed,
        "shorter": listed[:-1],
        "edited": [listed[0], other[0], *listed[2:], other[1]],
        "turned": listed[::-1] + other,
        "in front": other + listed,
        "one behind": [*listed[:-1], other[0], listed[-1], other[1]],
        "none of them": other,
    }.items():
        assert not extends(job_of(name, values), feature, told), name
    assert not extends(job_of("more", listed + other), feature, digest(told)), "how many there were is not known"
