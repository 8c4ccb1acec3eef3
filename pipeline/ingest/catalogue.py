"""Every data set that can be ingested, by name."""

from pipeline.ingest.census import CENSUS
from pipeline.ingest.dataset import Dataset
from pipeline.ingest.kuairand import KUAIRAND

DATASETS: dict[str, Dataset] = {dataset.about.name: dataset for dataset in (CENSUS, KUAIRAND)}
