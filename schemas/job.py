"""JobConfig: the whole YAML in one typed tree, checked as a whole before anything starts."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.balance import BalanceConfig, FixedBalance
from schemas.daily import DailyConfig, check_gate
from schemas.errors import InputError
from schemas.evaluate import EvaluateConfig
from schemas.events import PARTITION_KEY, DataConfig
from schemas.features import (
    BucketFeature,
    DenseFeature,
    EmbeddedFeature,
    FeatureSpec,
    HistoryListFeature,
    ListFeature,
    LookingBack,
    TableSpec,
    TargetEncodingFeature,
    ValuedFeature,
)
from schemas.fuse import FuseConfig
from schemas.fusion import FusionConfig, task_outputs
from schemas.model import ModelConfig, SingleTaskConfig
from schemas.predict import PredictConfig
from schemas.score import ScoreConfig
from schemas.strict import Strict, nearest
from schemas.tasks import Space, TaskSpec, parents
from schemas.warm_start import WarmStartConfig


class EmbeddingOptimizerConfig(Strict):
    """The optimizer fused into the tables' backward pass."""

    name: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "rowwise_adagrad"
    """rowwise_adagrad keeps one number a row; adagrad one an element; adam runs on CUDA alone."""
    lr: Annotated[float, Field(gt=0, le=1e4)] = 0.05
    """Learning rate of the tables, constant over the run."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the state."""


class DenseOptimizerConfig(Strict):
    """AdamW for everything that is not a table."""

    lr: Annotated[float, Field(gt=0, le=1e4)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the moments."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly from 0 to lr."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls from the end of the warm-up to the last step."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The rate at the last step, as a fraction of lr."""


class TrainConfig(Strict):
    """How long, how much at once, how often to speak and to save."""

    batch_size: Annotated[int, Field(ge=1)] = 8192
    """Rows a step over ALL ranks together, so that the result does not depend on how many there are."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the training days."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many steps; none = all rows of all epochs."""
    log_every: Annotated[int, Field(ge=1)] = 20
    """Steps between progress lines, each over the window of rows since the last."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 200
    """Steps between committed checkpoints; one more is made at the end."""
    async_checkpoint: bool = False
    """Write checkpoints behind training, from a copy: shorter pauses, for as much host memory as the state takes."""
    keep_last: Annotated[int, Field(ge=1)] = 3
    """Committed checkpoints kept; older ones are removed."""
    resume: bool = True
    """Go on from the newest committed checkpoint of `output`; false refuses an output that has one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the dense network in training; tables, losses and evaluation stay fp32. auto = bf16 where the hardware of all
    ranks multiplies it, fp32 elsewhere; a resumed run keeps what it began with."""
    compile: bool = False
    """torch.compile of the dense network."""
    timeout_seconds: Annotated[int, Field(ge=1)] = 600
    """The longest any rank waits for another before the job fails."""
    stop_seconds: Annotated[int, Field(ge=1)] = 600
    """After SIGTERM or SIGINT, the longest the launcher waits for the ranks to commit before it kills them."""


class TelemetryConfig(Strict):
    """What is told of gates, experts, gradients and embeddings while a job trains."""

    every: Annotated[int, Field(ge=0)] = 200
    """Steps from one look to the next, at least: at the end of a progress line's window; 0 = never."""
    rows: Annotated[int, Field(ge=1)] = 512
    """Rows of the step that are looked at, over all ranks: as many of each lane."""


class TrackingConfig(Strict):
    """What a run tells: its own record, its report, Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto = online where a key is configured, offline elsewhere."""
    project: str = "fulcrum"
    """wandb project."""
    entity: str | None = None
    """wandb entity."""
    group: str | None = None
    """wandb group; default: the job's name, so that all attempts of a job stand together."""
    folder: Annotated[str, Field(min_length=1)] | None = None
    """Local folder for the run's own record and wandb's files; default: `output` where it is a folder, `runs/NAME`
    where it is a URL."""
    telemetry: TelemetryConfig = TelemetryConfig()
    system: bool = True
    """wandb's own system metrics, of the machine of the first rank."""
    ranks: bool = False
    """Tell memory and waits of every rank, beside the most and the mean of all."""
    artifacts: bool = False
    """Log the model and the list of its files as wandb artifacts, by reference; nothing is ever found by them."""
    report: bool = True
    """Write report.html at the end of a run, and of the days of `daily`, into that folder, and into `output`."""


class JobConfig(Strict):
    """One training job."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """Name of the job."""
    output: Annotated[str, Field(min_length=1)]
    """Folder or fsspec URL for checkpoints; a folder holds the wandb run files too."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds weights, dropout and the shuffle."""
    data: DataConfig
    tables: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], TableSpec]
    """Embedding tables by name."""
    features: Annotated[list[FeatureSpec], Field(min_length=1)]
    """What the model reads."""
    tasks: Annotated[list[TaskSpec], Field(min_length=1)]
    """What it predicts."""
    space: Space = "conditional"
    """What tasks with a parent are trained on: conditional = the rows on which the labels of all ancestors are 1;
    entire = the joint probability up the chain, on every exposure (ESMM); naive = the label on every exposure."""
    model: ModelConfig
    """The dense network: architecture, experts, towers."""
    balance: BalanceConfig = FixedBalance(method="fixed")
    """How the tasks' losses are balanced, beginning from their declared weights."""
    embedding_optimizer: EmbeddingOptimizerConfig = EmbeddingOptimizerConfig()
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()
    warm_start: WarmStartConfig | None = None
    """Begin from another run's checkpoint; none = from the seed."""
    score: ScoreConfig | None = None
    """Models that `./launch.sh score` scores; training does not read it."""
    fusion: FusionConfig | None = None
    """One score of a row from the probabilities of its tasks; training does not read it."""
    predict: PredictConfig | None = None
    """Files that `./launch.sh predict` scores; training does not read it."""
    evaluate: EvaluateConfig | None = None
    """What `./launch.sh evaluate` measures; training does not read it."""
    fuse: FuseConfig | None = None
    """What `./launch.sh fuse` tunes the fused score for; training does not read it."""
    daily: DailyConfig | None = None
    """Daily retraining by `./launch.sh daily`; training does not read it."""

    @property
    def local_folder(self) -> str:
        """Where wandb's files and other local things go."""
        return self.tracking.folder or (f"runs/{self.name}" if "://" in self.output else self.output)

    @property
    def embedded(self) -> list[EmbeddedFeature]:
        """The features that point into tables, in the order of the batch's keys."""
        return [f for f in self.features if not isinstance(f, DenseFeature)]

    @property
    def trained_tables(self) -> dict[str, TableSpec]:
        """The tables that are trained: those declared, or with separate embeddings a copy a task, as click.user."""
        if not self.separate_embeddings:
            return self.tables
        return {f"{task.name}.{name}": table for task in self.tasks for name, table in self.tables.items()}

    @property
    def separate_embeddings(self) -> bool:
        """Whether each task has tables of its own."""
        return isinstance(self.model, SingleTaskConfig) and self.model.separate_embeddings

    @property
    def valued(self) -> list[ValuedFeature]:
        """The embedded features of values, which a vocabulary may list: all but buckets."""
        return [f for f in self.embedded if not isinstance(f, BucketFeature)]

    @property
    def dense(self) -> list[DenseFeature]:
        """The features of the dense input, in the order of its columns."""
        return [f for f in self.features if isinstance(f, DenseFeature)]

    @property
    def history(self) -> list[LookingBack]:
        """The features that are made of earlier days."""
        return [f for f in self.features if isinstance(f, LookingBack)]

    @property
    def parents(self) -> list[int | None]:
        """Index of each task's parent, None for a root."""
        return parents(self.tasks)

    @property
    def spaces(self) -> list[Space]:
        """What each task is trained on; a root lives on every exposure anyway, so all three are `conditional`."""
        return ["conditional" if task.given is None else task.space or self.space for task in self.tasks]

    @property
    def links(self) -> list[int | None]:
        """Index of the task with whose joint probability each task's own is multiplied, to give its joint one.

        The parent; None for a root, for a number, and for a naive task, whose probability is already that of any
        exposure.
        """
        ends = [s == "naive" or t.kind == "regression" for s, t in zip(self.spaces, self.tasks, strict=True)]
        return [None if end else parent for end, parent in zip(ends, self.parents, strict=True)]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What a score needs to know of each task, in plain data (schemas/fusion.py)."""
        return task_outputs(self.tasks, self.links)

    @property
    def weighted_ids(self) -> bool:
        """Whether every id carries a weight.

        All pooling is a sum in the tables; a mean is a sum of ids of weight 1 / length. So features with unlike
        pooling may share a table, and the mean is the same under every sharding plan.
        """
        return any(isinstance(f, ListFeature) and (f.pooling == "mean" or f.weights) for f in self.features)

    @property
    def columns(self) -> list[str]:
        """Every column of the log the job reads, once each."""
        out = dict.fromkeys(column for f in self.features for column in f.sources)
        out |= dict.fromkeys(t.source for t in self.tasks)
        return list(out | dict.fromkeys(c for t in self.tasks for c in (t.indicator, t.sample_weight) if c))

    @model_validator(mode="after")
    def _consistent(self) -> "JobConfig":
        parents(self.tasks)
        self._check_features()
        self._check_spaces()
        if self.model.norm == "batch" and self.data.holdout:
            raise InputError(
                "model.norm: batch normalisation cannot train a step that data.holdout leaves with one row; use "
                "model.norm=layer or none, or remove data.holdout"
            )
        if self.model.norm == "batch" and self.data.quarantine:
            raise InputError(
                "model.norm: batch normalisation cannot train a step that quarantine leaves with one row; use "
                "model.norm=layer or none, or set data.bad and data.funnel to error"
            )
        self._check_tables()
        if self.daily is not None:
            check_gate(self.daily.gate, self.tasks)
        if self.fusion is not None:
            self.fusion.check(self.tasks)
        self.model.arguments([task.name for task in self.tasks])  # what it tells by task fits the tasks
        if not self.embedded:
            raise InputError("features: at least one must have a table; a job of floats alone has nothing to shard")
        return self

    def _check_features(self) -> None:
        names = [f.name for f in self.features]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"features: '{name}' is declared {names.count(name)} times; rename one")
        labels = {task.source: task.name for task in self.tasks}
        indicators = {task.indicator: task.name for task in self.tasks if task.indicator}
        for feature in self.features:
            if isinstance(feature, TargetEncodingFeature | HistoryListFeature) and feature.task is not None:
                self._check_looking_back(feature, feature.task)
            for column in feature.sources:
                if column in labels:
                    raise InputError(
                        f"features.{feature.name}: column '{column}' is the label of task '{labels[column]}'; "
                        "a label as a feature leaks the answer. Remove the feature"
                    )
                if column in indicators:
                    raise InputError(
                        f"features.{feature.name}: column '{column}' is the indicator of task '{indicators[column]}', "
                        "which says what came of the exposure; as a feature it leaks. Remove the feature, or write "
                        "what is known before the exposure under another name"
                    )
                if column == PARTITION_KEY:
                    raise InputError(f"features.{feature.name}: '{PARTITION_KEY}' is the partition key, not a column")
        for task in self.tasks:
            if [t.source for t in self.tasks].count(task.source) > 1:
                raise InputError(f"tasks.{task.name}: label column '{task.source}' belongs to another task as well")

    def _check_looking_back(self, feature: TargetEncodingFeature | HistoryListFeature, name: str) -> None:
        tasks = {task.name: task for task in self.tasks}
        task, where = tasks.get(name), f"features.{feature.name}"
        if task is None:
            raise InputError(f"{where}.task: no task '{name}'; {nearest(name, list(tasks))}")
        if isinstance(feature, HistoryListFeature):
            if task.kind == "regression":
                raise InputError(
                    f"{where}.task: '{name}' is a regression task, whose label is never just 1; name a binary task"
                )
            return
        if task.kind == "regression" and feature.transform == "logit":
            raise InputError(
                f"{where}.transform: 'logit' is of a probability, and '{task.name}' is a regression task; use lift or "
                "none"
            )
        if task.kind == "binary" and feature.default is not None and not 0 < feature.default < 1:
            raise InputError(
                f"{where}.default: {feature.default} is the mean of no 0/1 label; name a share between 0 and 1"
            )

    def _check_spaces(self) -> None:
        for task, space in zip(self.tasks, self.spaces, strict=True):
            if space == "entire" and task.kind == "regression":
                raise InputError(
                    f"tasks.{task.name}.space: 'entire' is a product of probabilities, and '{task.name}' is a "
                    f"regression task; set tasks.{task.name}.space to conditional or naive"
                )

    def _check_tables(self) -> None:
        used = set()
        for feature in self.embedded:
            table = self.tables.get(feature.table_name)
            if table is None:
                hint = nearest(feature.table_name, list(self.tables)) if self.tables else "declare it under 'tables'"
                raise InputError(f"features.{feature.name}: no table '{feature.table_name}'; {hint}")
            used.add(feature.table_name)
            if isinstance(feature, BucketFeature) and table.rows < len(feature.boundaries) + 1:
                raise InputError(
                    f"tables.{feature.table_name}.rows: {table.rows} rows for the {len(feature.boundaries) + 1} "
                    f"buckets of feature '{feature.name}'; at least one row a bucket is needed"
                )
        for name, table in self.tables.items():
            if name not in used:
                raise InputError(f"tables.{name}: no feature points into it; remove it or name it in a feature")
            self._check_sharding(name, table)
            self._check_vocabulary(name)

    def _check_vocabulary(self, table: str) -> None:
        """A table's row must mean one thing: all its features look values up in one vocabulary, or none does."""
        users = {f.name: getattr(f, "vocabulary", None) for f in self.embedded if f.table_name == table}
        if len(set(users.values())) > 1:
            raise InputError(
                f"tables.{table}: its features have unlike vocabularies ("
                + ", ".join(f"{feature}: {path or 'none'}" for feature, path in users.items())
                + "), so a row would mean several things; give them one, or a table each"
            )

    def _check_sharding(self, name: str, table: TableSpec) -> None:
        if table.sharding == "column_wise" and table.dim < 8:
            raise InputError(f"tables.{name}: dim {table.dim} cannot be cut column-wise; use 8 or more")
        if table.sharding == "data_parallel" and self.embedding_optimizer.name == "adam":
            raise InputError(
                f"tables.{name}.sharding: a data_parallel table under 'adam' would be trained by another rule than a "
                "sharded one (dense instead of lazy moments); use rowwise_adagrad, adagrad or sgd"
            )


def json_schema() -> dict[str, Any]:
    """JSON Schema of the YAML, for editors."""
    return JobConfig.model_json_schema(by_alias=True)
