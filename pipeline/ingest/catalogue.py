"""Every data set that can be ingested, by name."""

from pipeline.ingest.aliccp import ALICCP
from pipeline.ingest.aliexpress import ALIEXPRESS
from pipeline.ingest.census import CENSUS
from pipeline.ingest.dataset import Dataset
from pipeline.ingest.kuairand import KUAIRAND
from pipeline.ingest.taobao import TAOBAO

DATASETS: dict[str, Dataset] = {
    dataset.about.name: dataset for dataset in (CENSUS, KUAIRAND, TAOBAO, ALICCP, ALIEXPRESS)
}
