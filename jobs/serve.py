"""Serve an exported bundle over HTTP: scores of JSON rows, health, metrics.

    FULCRUM_EXTRAS=serve ./launch.sh serve BUNDLE [--host 127.0.0.1] [--port 8000]

POST /score {"rows": [{...}]}, GET /health, /schema, /metrics: docs/serving.md. Requests that come together are scored
together. SIGTERM or SIGINT: every request that was accepted is answered, then it ends with 0; with 1 where a second
signal or --answer-seconds cut some off.
"""

import argparse
import importlib.util
import sys

from jobs.failure import reported
from pipeline.serving.limits import Limits
from schemas.errors import InputError

FEWEST = {
    "max_rows": 1,
    "max_body_mib": 1,
    "body_seconds": 0.1,
    "max_queue_rows": 1,
    "batch_rows": 1,
    "wait_ms": 0,
    "drain_seconds": 0,
    "answer_seconds": 1,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, limits = out.add_argument, Limits()
    add("bundle", metavar="BUNDLE", help="folder that `export` wrote")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (%(default)s)")
    add("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    engines = "what runs the network: the others are there by --aoti and --onnx of `export` (%(default)s)"
    add("--engine", choices=("torch", "aoti", "onnx"), default="torch", help=engines)
    add("--threads", type=int, default=1, metavar="N", help="of the network (%(default)s)")
    add("--max-rows", type=int, default=limits.rows, metavar="N", help="of a request (%(default)s)")
    add("--max-body-mib", type=int, default=limits.body_bytes >> 20, metavar="MIB", help="of a request (%(default)s)")
    come = "for a request's body to come (%(default)s)"
    add("--body-seconds", type=float, default=limits.body_seconds, metavar="S", help=come)
    add("--max-queue-rows", type=int, default=limits.queue_rows, metavar="N", help="that wait (%(default)s)")
    add("--batch-rows", type=int, default=limits.batch_rows, metavar="N", help="scored together (%(default)s)")
    add("--wait-ms", type=float, default=limits.wait_ms, metavar="MS", help="for others to batch with (%(default)s)")
    drained = "after a signal, with /health at 503 (%(default)s)"
    waited = "the longest that a stop waits for requests on their way (%(default)s)"
    add("--answer-seconds", type=int, default=20, metavar="S", help=waited)
    add("--drain-seconds", type=float, default=0.0, metavar="S", help=drained)
    return out


def main(argv: list[str] | None = None) -> None:
    """Runs the command; raises InputError."""
    given = parser().parse_args(sys.argv[1:] if argv is None else argv)
    for name, least in FEWEST.items():
        if getattr(given, name) < least:
            raise InputError(f"--{name.replace('_', '-')}: {getattr(given, name)} is less than {least}")
    if given.threads < 1 or not 0 <= given.port < 2**16:
        raise InputError("--threads is 1 or more, --port a number from 0 to 65535")
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise InputError("the service needs FastAPI and uvicorn; FULCRUM_EXTRAS=serve ./launch.sh serve installs them")
    from pipeline.export.loading import load_bundle
    from pipeline.serving.app import service
    from pipeline.serving.server import listening, serve

    limits = Limits(
        rows=given.max_rows,
        body_bytes=given.max_body_mib << 20,
        body_seconds=given.body_seconds,
        queue_rows=given.max_queue_rows,
        batch_rows=given.batch_rows,
        wait_ms=given.wait_ms,
    )
    if limits.queue_rows < limits.rows:
        raise InputError(f"--max-queue-rows: {limits.queue_rows} rows hold no request of --max-rows {limits.rows}")
    bundle = load_bundle(given.bundle, given.engine, given.threads)
    with listening(given.host, given.port) as socket:
        host, port = socket.getsockname()[:2]
        told = bundle.about["checkpoint"]
        print(f"serving {bundle.about['name']} of step {told['step']:,} on http://{host}:{port}", flush=True)
        cut_off = serve(service(bundle, limits), socket, given.drain_seconds, given.answer_seconds)
    if cut_off:
        sys.exit(f"stopped: {cut_off} requests on their way were cut off")
    print("stopped: every accepted request was answered", flush=True)


if __name__ == "__main__":
    with reported():
        main()
