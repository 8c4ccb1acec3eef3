"""Census-Income (UCI KDD): the benchmark of the MMoE and PLE papers as a log of two days. No torch.

A row is one person asked. Nobody was shown anything and no day is told, so the days are artificial: the training
split is the first, the test split the second. Every column stays as it is but the class, which becomes the label.
"""

import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.dataset import About, Dataset, Folder, Options, Progress
from pipeline.ingest.lines import Format, Rows
from pipeline.ingest.published import rows_of
from pipeline.ingest.written_log import WrittenLog, by_column, midnight_ms, required
from schemas.events import TIME_COLUMN, USER_COLUMN

TRAIN_DAY, TEST_DAY = datetime.date(2000, 1, 1), datetime.date(2000, 1, 2)

NUMBERS = (
    *("age", "wage_per_hour", "capital_gains", "capital_losses", "dividends", "instance_weight"),
    *("num_persons_employer", "weeks_worked"),
)
COLUMNS = (
    *("age", "class_of_worker", "industry_code", "occupation_code", "education", "wage_per_hour"),
    *("enrolled_edu_last_wk", "marital_status", "major_industry", "major_occupation", "race", "hispanic_origin", "sex"),
    *("union_member", "unemp_reason", "full_part_time", "capital_gains", "capital_losses", "dividends", "tax_filer"),
    *("region_prev_res", "state_prev_res", "hh_family_stat", "hh_summary", "instance_weight", "mig_msa", "mig_reg"),
    *("mig_within_reg", "live_1yr_ago", "mig_sunbelt", "num_persons_employer", "family_under_18", "country_father"),
    *("country_mother", "country_self", "citizenship", "own_business", "veterans_q", "veterans_benefits"),
    *("weeks_worked", "year", "income"),
)
"""UCI's 42, in its order; it numbers them, the names are ours."""
ABOVE, BELOW = "50000+.", "- 50000."
COLLEGE = (
    *("Associates degree-occup /vocational", "Associates degree-academic program", "Bachelors degree(BA AB BS)"),
    *("Masters degree(MA MS MEng MEd MSW MBA)", "Prof school degree (MD DDS DVM LLB JD)"),
    "Doctorate degree(PhD EdD)",
)
LABELS = ("income", "never_married", "college")
FORM = Format(
    "a split of Census-Income (KDD), 42 columns without a header",
    {name: pa.float32() if name in NUMBERS else pa.string() for name in COLUMNS},
    header=False,
)
SCHEMA = pa.schema(
    [
        required(USER_COLUMN, pa.int64()),
        required(TIME_COLUMN, pa.timestamp("ms", "UTC")),
        *(required(name, kind) for name, kind in FORM.columns.items() if name != "income"),
        *(required(name, pa.int8()) for name in LABELS),
    ]
)
ABOUT = About(
    name="census",
    title="Census-Income (KDD)",
    source="https://archive.ics.uci.edu/dataset/117/census+income+kdd",
    licence="CC BY 4.0",
    cite="Census-Income (KDD), UCI Machine Learning Repository, 2000, https://doi.org/10.24432/C5N30T",
    files="""\
census-income.data and census-income.test, out of UCI's census.tar.gz (or .gz of each); or train.parquet and
validation.parquet or test.parquet, with the columns named as in docs/ingest.md""",
    rows="""\
The training split becomes the day 2000-01-01, the test split 2000-01-02; both days are artificial.
Labels: income (more than 50,000), never_married, college (Associates degree and above).""",
)


class Census:
    """The files of the two splits."""

    schema, labels = SCHEMA, LABELS

    def __init__(self, folder: Folder, options: Options) -> None:
        self._fs = folder.fs
        train = folder.find("census-income.data", "train.parquet", what="the training split")
        test = folder.find("census-income.test", "test.parquet", "validation.parquet", what="the test split")
        self._splits = {TRAIN_DAY: train, TEST_DAY: test}
        self.identity = {"files": folder.identity(train, test)}

    def write(self, log: WrittenLog, progress: Progress) -> list[str]:
        """Both splits into the log."""
        done = 0
        for day, path in self._splits.items():
            midnight = midnight_ms(day) - done
            for rows in self._rows(path):
                log.add(day, _events(rows, done, midnight))
                done += rows.table.num_rows
                progress(path.rpartition("/")[2], rows.table.num_rows)
        return []

    def _rows(self, path: str) -> Iterator[Rows]:
        for rows in rows_of(self._fs, path, FORM):
            income = rows.table.column("income")
            rows.check(pc.is_in(income, pa.array([ABOVE, BELOW])), "income", f"is neither '{ABOVE}' nor '{BELOW}'")
            yield rows


def _events(rows: Rows, done: int, midnight: int) -> pa.Table:
    table = rows.table
    number_N = np.arange(done, done + table.num_rows)
    columns: dict[str, Any] = {name: table.column(name) for name in table.column_names}
    columns |= {
        USER_COLUMN: pa.array(number_N),
        TIME_COLUMN: pa.array(midnight + number_N, pa.timestamp("ms", "UTC")),
        "income": pc.equal(table.column("income"), ABOVE),
        "never_married": pc.equal(table.column("marital_status"), "Never married"),
        "college": pc.is_in(table.column("education"), pa.array(COLLEGE)),
    }
    return by_column(SCHEMA, columns)


CENSUS = Dataset(ABOUT, Census, row_group_rows=12_288)
