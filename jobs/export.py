"""Export a checkpoint as a folder that scores rows with torch and numpy alone.

    ./launch.sh export CHECKPOINT --out BUNDLE [--tables fp32|fp16|int8] [--aoti] [--onnx] [fusion=@FILE.yaml]
                       [--calibrate platt|isotonic --predictions SCORES/NAME] [--as-of DAY]

CHECKPOINT is one commit, a run's output (its newest), or OUTPUT@champion of a daily job. The bundle holds the
network and its tables (torch.export), how rows are encoded, the fused score, checksums, and a scorer: docs/serving.md.
"""

import argparse
import sys

from jobs.checkpoints import registered
from jobs.failure import reported
from pipeline.export.plan import KEY, plan_export
from schemas.events import StorageConfig


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a commit, a folder of them, or OUTPUT@champion")
    add(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="fusion=@FILE.yaml, data.path, data.history.folder, features.NAME.vocabulary",
    )
    add("--out", required=True, metavar="BUNDLE", help="folder to write, which must not be there yet")
    add("--tables", choices=("fp32", "fp16", "int8"), default="fp32", help="how the tables are stored (%(default)s)")
    add("--aoti", action="store_true", help="an AOTInductor package as well; needs a C++ compiler")
    add("--onnx", action="store_true", help="the network as ONNX as well; needs FULCRUM_EXTRAS=onnx")
    add("--calibrate", choices=("platt", "isotonic"), help="calibrate the probabilities on held-out rows")
    add("--predictions", metavar="SCORES/NAME", help="those rows, as `score` wrote them of this checkpoint")
    add("--as-of", metavar="DAY", help="statistics of the days before it (the day after the last of data.train)")
    return out


def main(argv: list[str] | None = None) -> None:
    """Runs the command; raises InputError."""
    given = parser().parse_intermixed_args(sys.argv[1:] if argv is None else argv)
    export = plan_export(
        registered(given.checkpoint, StorageConfig(), KEY),
        given.out,
        given.tables,
        given.aoti,
        given.onnx,
        given.as_of,
        given.calibrate,
        given.predictions,
        given.overrides,
    )
    # here and not above: a mistake in the command must not cost the seconds these take
    from pipeline.train.dist import quiet_libraries

    quiet_libraries()
    from pipeline.export.export import write_bundle

    commit = export.commit
    print(f"exporting {export.job.model.arch} of step {commit.progress.step:,} ({commit.path})", flush=True)
    written = write_bundle(export)
    told = f"{written.bytes / 2**20:,.1f} MiB, logits within {written.difference:.1g} of the model's"
    print(f"exported  {given.out}  {told}")


if __name__ == "__main__":
    with reported():
        main()
