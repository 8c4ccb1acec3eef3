"""List the jobs."""

import ast
from pathlib import Path

HELP = """Fulcrum: distributed training of multi-task ranking models.

  ./launch.sh                          generate an event log, train PLE on it, show each task's metrics
  ./launch.sh JOB [OPTIONS]            run a job; every job has --help
  ./launch.sh test [PYTEST OPTIONS]    the test suite; -m long runs what takes minutes
  ./launch.sh check                    lint, types, import contracts

Jobs:"""
PARTS = {"launch", "agent", "ports", "interrupts", "failure", "checkpoints"}
"""What the jobs are made of: those that run on ranks are started through `launch`."""


def main() -> None:
    """Prints every job with the first line of its docstring."""
    print(HELP)
    for file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if file.stem in PARTS:
            continue
        summary = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
        print(f"  {file.stem:<10} {summary}")


if __name__ == "__main__":
    main()
