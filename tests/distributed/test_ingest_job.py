"""The two commands of a published data set: ingest, then train its packaged job on two ranks."""

from pathlib import Path

import numpy as np

from tests.distributed.command import run
from tests.published import CONFIGS, ingested
from tests.unit.test_ingest_taobao import DAY, MIDNIGHT, write

ROWS = 900


def test_a_data_set_is_ingested_and_trained_in_two_commands(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    # two views a line of the others, on the first and on the last day of the packaged job
    seconds = MIDNIGHT + random.integers(0, DAY, ROWS) + DAY * random.choice(9, ROWS)
    ids = random.integers(0, 30, (2, ROWS))
    behaviour = random.choice(["pv", "cart", "fav", "buy"], ROWS, p=[0.55, 0.15, 0.15, 0.15])
    columns = (ids[0], ids[1], ids[1] % 5, behaviour, seconds)
    lines = list(zip(*(column.tolist() for column in columns), strict=True))
    log = ingested("taobao", write(tmp_path, lines), tmp_path / "events")
    small = [f"tables.{name}.rows={rows}" for name, rows in (("user", 100), ("item", 100), ("category", 20))]
    said = run(
        CONFIGS / "taobao.yaml",
        f"data.path={log}",
        f"output={tmp_path}/out",
        *small,
        "train.batch_size=64",
        "train.log_every=2",
        "dense_optimizer.warmup_steps=1",
        "tracking.mode=disabled",
    )
    table = [line.split() for line in said.splitlines() if line.startswith(("cart ", "fav ", "order "))]
    assert [name for name, *_ in table] == ["cart", "fav", "order"]
    assert len({rows for _, rows, *_ in table}) == 1, "every task lives on every row"
    assert "checkpoint" in said
