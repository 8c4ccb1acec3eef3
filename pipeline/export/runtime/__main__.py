"""python -m scorer ROWS.parquet SCORES.parquet [torch|aoti|onnx]: scores of every row, in order. Needs pyarrow."""

import os
import sys
from pathlib import Path

from .bundle import AT_ONCE, Bundle
from .errors import BundleError, FieldError


def main(argv: list[str]) -> int:
    """Scores a file; 2 where something is to be mended."""
    if len(argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, target = map(Path, argv[:2])
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    done = 0
    try:
        bundle = Bundle(Path(__file__).parents[1], argv[2] if len(argv) == 3 else "torch")
        names = [field["name"] for field in bundle.fields]
        schema = pa.schema([pa.field(name, pa.float64()) for name in bundle.columns])
        with pq.ParquetFile(source) as file, pq.ParquetWriter(draft, schema) as writer:
            there = [name for name in names if name in file.schema_arrow.names]
            for batch in file.iter_batches(AT_ONCE, columns=there):
                writer.write_table(pa.table(bundle.score_table(batch), schema=schema))
                done += batch.num_rows
        draft.rename(target)
    except FieldError as error:
        print(f"error: {source}: {error.moved(done)}", file=sys.stderr)
        return 2
    except (BundleError, OSError, pa.ArrowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        draft.unlink(missing_ok=True)
    print(f"{done:,} rows scored: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
