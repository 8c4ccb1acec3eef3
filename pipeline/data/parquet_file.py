"""A Parquet file opened on its own, outside any manifest: to compact or measure it, or for a vocabulary. No torch."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import is_local, reason
from schemas.errors import InputError


def open_parquet(fs: Any, path: str, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """The file with its page checksums verified; local files are opened by Arrow itself.

    The string columns named in `dictionaries` come out dictionary-encoded. Raises InputError for what is no whole file.
    """
    local = is_local(fs)
    try:
        source = path if local else fs.open(path, "rb")
        return pq.ParquetFile(
            source, page_checksum_verification=True, pre_buffer=not local, read_dictionary=list(dictionaries)
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a whole Parquet file ({reason(error)}); write it again") from error
