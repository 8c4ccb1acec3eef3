"""The service's HTTP: /score, /health, /schema, /metrics. The one file that imports FastAPI.

408  the body came too slowly       413  more rows or bytes than a request may have
422  no JSON, or what the schema refuses, the field named       429  more rows wait than may: try again
503  the service is stopping
"""

import asyncio
import json
import math
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from pipeline.serving.batcher import Batcher, QueueFullError, StoppingError
from pipeline.serving.limits import Limits
from pipeline.serving.metrics import Metrics

LARGEST = 1.7976931348623157e308
RETRY_SECONDS = "1"
LATE = 408


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        self.status, self.content = status, {"error": message, **more}


def service(bundle: Any, limits: Limits) -> FastAPI:
    """The application over a loaded bundle; `app.state.draining` makes /health say that it stops."""
    metrics = Metrics()
    batcher = Batcher(bundle.score, limits, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(title=f"scores of {bundle.about['name']}", lifespan=lifespan, openapi_url=None)
    app.state.draining = False

    @app.get("/health")
    async def health() -> Response:
        """Whether requests are welcome."""
        about = bundle.about
        status = "stopping" if app.state.draining else "ok" if batcher.alive else "failed"
        told = {"status": status, "name": about["name"]}
        told |= {"checkpoint": about["checkpoint"]["name"], "step": about["checkpoint"]["step"]}
        return _json(told, 200 if status == "ok" else 503)

    @app.get("/schema")
    async def schema() -> Response:
        """What a row holds, and what it gets."""
        return _json({"fields": bundle.fields, "scores": bundle.columns, "limits": {"rows": limits.rows}})

    @app.get("/metrics")
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/score")
    async def score(request: Request) -> Response:
        """{"rows": [{field: value}]} -> {"rows": N, "scores": {column: [N numbers]}}, in the rows' order."""
        began, rows = time.perf_counter(), 0
        try:
            given = _rows_of(await _body(request, limits), limits.rows)
            scores = await batcher.submit(given)
            rows = len(given)
            answer = _json({"rows": rows, "scores": {name: _finite(x_N) for name, x_N in scores.items()}})
        except RefusedError as refused:
            # what else comes of a body that was late is no request
            headers = {"Connection": "close"} if refused.status == LATE else None
            answer = _json(refused.content, refused.status, headers)
        except QueueFullError:
            answer = _json({"error": "too many rows wait; try again"}, 429, {"Retry-After": RETRY_SECONDS})
        except StoppingError:
            answer = _json({"error": "the service is stopping"}, 503, {"Retry-After": RETRY_SECONDS})
        except ClientDisconnect:
            answer = _json({"error": "the body is cut short"}, 400)
        except Exception as error:
            if isinstance(error, ValueError) and hasattr(error, "field"):
                told = {"error": str(error), "field": error.field, "row": getattr(error, "row", None)}
                answer = _json(told, 422)
            else:  # a fault of the program: told to who runs it, not to who asks
                traceback.print_exception(error)
                answer = _json({"error": "the service failed"}, 500)
        metrics.answered(answer.status_code, rows, time.perf_counter() - began)
        return answer

    return app


async def _body(request: Request, limits: Limits) -> bytes:
    """The body, no further and no longer than allowed."""
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _whole(request, limits.body_bytes)
    except TimeoutError:
        raise RefusedError(LATE, f"the body has not come within {limits.body_seconds:g} s") from None


async def _whole(request: Request, most: int) -> bytes:
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise RefusedError(413, f"the body has {int(told):,} bytes, and {most:,} are the most")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise RefusedError(413, f"the body has more than {most:,} bytes, which are the most")
        parts.append(part)
    return b"".join(parts)


def _rows_of(body: bytes, most: int) -> list[dict[str, Any]]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or an integer of thousands of digits, too
        raise RefusedError(422, f"the body is no JSON ({error})") from None
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or len(content) != 1:
        raise RefusedError(422, 'the body must be {"rows": [{field: value, ...}, ...]}', field="rows")
    if len(rows) > most:
        raise RefusedError(413, f"{len(rows):,} rows, and {most:,} are the most of a request", field="rows")
    return rows


def _finite(x_N: list[float]) -> list[float]:
    """JSON has no infinity; a score beyond 64 bits comes first all the same, as `log_score` tells exactly."""
    return [math.copysign(LARGEST, x) if math.isinf(x) else x for x in x_N]


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers, "application/json")
