"""The service without a model behind it: limits, batches, what is refused, what is counted, and a stop that loses
nothing."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from jobs import serve as job
from pipeline.export.runtime.columns import by_field, columns_of
from pipeline.serving.app import service
from pipeline.serving.batcher import Batcher, QueueFullError, StoppingError
from pipeline.serving.limits import Limits
from pipeline.serving.metrics import Histogram, Metrics
from pipeline.serving.server import listening
from schemas.errors import InputError

FIELDS = [
    {"name": "x", "type": "number", "null": False},
    {"name": "city", "type": "string", "null": True},
]


class Doubling:
    """As a Bundle: the score of a row is twice its x. Notes its batches; may be held up."""

    fields, columns = FIELDS, ["score"]
    about = {"name": "doubling", "checkpoint": {"name": "step-1", "step": 1}}

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()

    def score(self, rows: Any) -> dict[str, Any]:
        assert self.free.wait(30)
        columns = columns_of(by_field(rows, self.fields), self.fields)
        self.batches.append(len(rows))
        if any(row["x"] == 13 for row in rows):
            raise RuntimeError("a secret of the program")
        return {"score": 2 * columns["x"].values}  # type: ignore[union-attr]


def with_client(bundle: Doubling, limits: Limits, act: Callable[[httpx.AsyncClient, Any], Awaitable[None]]) -> None:
    """Runs `act` against the service."""

    async def run() -> None:
        app = service(bundle, limits)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://s") as c:
            await act(c, app)

    asyncio.run(run())


def rows(*values: float) -> dict[str, Any]:
    return {"rows": [{"x": x, "city": None} for x in values]}


def test_rows_are_scored_in_their_order() -> None:
    async def act(client: httpx.AsyncClient, app: Any) -> None:
        answer = await client.post("/score", json=rows(3, 1, 2))
        assert (answer.status_code, answer.json()) == (200, {"rows": 3, "scores": {"score": [6, 2, 4]}})
        assert (await client.post("/score", json={"rows": []})).json() == {"rows": 0, "scores": {"score": []}}
        told = (await client.get("/health")).json()
        assert told == {"status": "ok", "name": "doubling", "checkpoint": "step-1", "step": 1}
        assert (await client.get("/schema")).json()["fields"] == FIELDS
        app.state.draining = True
        gone = await client.get("/health")
        assert (gone.status_code, gone.json()["status"]) == (503, "stopping")

    with_client(Doubling(), Limits(), act)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 422, {"error": "the body is no JSON"}),
        (b"\xff", 422, {"error": "the body is no JSON"}),
        (b"[" * 100_000, 422, {"error": "the body is no JSON"}),
        (b"9" * 10_000, 422, {"error": "the body is no JSON"}),
        (b"[1]", 422, {"error": 'the body must be {"rows"', "field": "rows"}),
        (b'{"rows": 5}', 422, {"error": 'the body must be {"rows"', "field": "rows"}),
        (b'{"rows": [], "model": 1}', 422, {"error": 'the body must be {"rows"', "field": "rows"}),
        (
            b'{"rows": [{"x": 1}, 5]}',
            422,
            {"error": "row 1, rows: is 5; a row is an object", "field": "rows", "row": 1},
        ),
        (b'{"rows": [{"x": "1"}]}', 422, {"error": "row 0, x: is '1'; it must be a number", "field": "x", "row": 0}),
        (b'{"rows": [{"x": NaN}]}', 422, {"error": "row 0, x: is null or missing", "field": "x", "row": 0}),
        (b'{"rows": [{"city": "Oslo"}]}', 422, {"error": "row 0, x: is null or missing", "field": "x", "row": 0}),
        (b'{"rows": [{"x": 1, "z": 1}]}', 422, {"error": "row 0, z: the model has no such field", "field": "z"}),
        (json.dumps(rows(*range(6))).encode(), 413, {"error": "6 rows, and 5 are the most of a request"}),
        (b" " * 1_048_577, 413, {"error": "the body has 1,048,577 bytes, and 1,048,576 are the most"}),
        (b'{"rows": [{"x": 13}]}', 500, {"error": "the service failed"}),
    ],
)
def test_a_request_that_is_refused_is_told_why(
    body: bytes, status: int, told: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(client: httpx.AsyncClient, app: Any) -> None:
        answer = await client.post("/score", content=body)
        got = answer.json()
        assert answer.status_code == status, got
        assert got["error"].startswith(told["error"])
        assert {key: got[key] for key in told if key != "error"} == {k: v for k, v in told.items() if k != "error"}
        assert "secret" not in answer.text
        assert f'scorer_requests_total{{status="{status}"}} 1' in (await client.get("/metrics")).text
        assert (await client.post("/score", json=rows(1))).status_code == 200, "and the service goes on"

    with_client(Doubling(), Limits(rows=5, body_bytes=1 << 20), act)
    assert ("a secret of the program" in capsys.readouterr().err) == (status == 500)


def test_a_body_without_a_length_ends_where_it_is_too_long() -> None:
    async def act(client: httpx.AsyncClient, app: Any) -> None:
        read = 0

        async def endless() -> Any:
            nonlocal read
            while True:
                read += 1
                yield b" " * 1000

        answer = await client.post("/score", content=endless())
        assert (answer.status_code, answer.json()["error"]) == (
            413,
            "the body has more than 5,000 bytes, which are the most",
        )
        assert read < 10

    with_client(Doubling(), Limits(body_bytes=5_000), act)


def test_a_body_that_comes_too_slowly_is_not_waited_for() -> None:
    async def act(client: httpx.AsyncClient, app: Any) -> None:
        async def slow() -> Any:
            yield b'{"rows":'
            await asyncio.sleep(30)

        answer = await client.post("/score", content=slow())
        assert (answer.status_code, answer.json()["error"]) == (408, "the body has not come within 0.2 s")
        assert answer.headers["connection"] == "close"
        assert (await client.post("/score", json=rows(1))).status_code == 200, "and the service goes on"

    with_client(Doubling(), Limits(body_seconds=0.2), act)


def test_requests_that_come_while_the_network_is_busy_go_together_and_one_bad_one_alone_is_refused() -> None:
    bundle = Doubling()

    async def act(client: httpx.AsyncClient, app: Any) -> None:
        bundle.free.clear()
        first = asyncio.create_task(client.post("/score", json=rows(0)))
        while not app_queue(app):
            await asyncio.sleep(0.01)
        good = [asyncio.create_task(client.post("/score", json=rows(n, n + 0.5))) for n in range(1, 5)]
        bad = asyncio.create_task(client.post("/score", json={"rows": [{"x": 1}, {"x": True}]}))
        await asyncio.sleep(0.1)
        bundle.free.set()
        assert (await first).json()["scores"]["score"] == [0]
        for n, each in enumerate(good, 1):
            assert (await each).json()["scores"]["score"] == [2 * n, 2 * n + 1]
        refused = await bad
        assert (refused.status_code, refused.json()["row"], refused.json()["field"]) == (422, 1, "x")

    def app_queue(app: Any) -> bool:
        return bool(bundle_waits(bundle))

    with_client(bundle, Limits(batch_rows=6), act)
    assert bundle.batches[:2] == [1, 6], "three requests of two rows fill a batch"
    assert sum(bundle.batches) == 9


def bundle_waits(bundle: Doubling) -> bool:
    return any(thread.name.startswith("network") for thread in threading.enumerate())


def test_what_does_not_fit_the_queue_is_told_to_come_again() -> None:
    bundle = Doubling()

    async def act(client: httpx.AsyncClient, app: Any) -> None:
        bundle.free.clear()
        taken = [asyncio.create_task(client.post("/score", json=rows(1, 2, 3))) for _ in range(2)]
        await asyncio.sleep(0.1)
        full = await client.post("/score", json=rows(1))
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        assert "scorer_queue_rows 6" in (await client.get("/metrics")).text
        bundle.free.set()
        assert [(await each).status_code for each in taken] == [200, 200]
        assert (await client.post("/score", json=rows(1))).status_code == 200

    with_client(bundle, Limits(rows=3, queue_rows=6), act)


def test_a_stop_scores_what_was_taken_on_and_takes_no_more() -> None:
    async def run() -> None:
        bundle = Doubling()
        batcher = Batcher(bundle.score, Limits(batch_rows=2), Metrics())
        batcher.start()
        bundle.free.clear()
        taken = [asyncio.create_task(batcher.submit(rows(n)["rows"])) for n in range(9)]
        await asyncio.sleep(0.05)
        stop = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0.05)
        with pytest.raises(StoppingError):
            await batcher.submit(rows(1)["rows"])
        assert not stop.done()
        bundle.free.set()
        await stop
        assert [(await each)["score"] for each in taken] == [[2.0 * n] for n in range(9)]
        assert max(bundle.batches) == 2

    asyncio.run(run())


def test_who_hangs_up_takes_nothing_from_the_others() -> None:
    async def run() -> None:
        bundle = Doubling()
        batcher = Batcher(bundle.score, Limits(queue_rows=2), Metrics())
        batcher.start()
        bundle.free.clear()
        gone = asyncio.create_task(batcher.submit(rows(1)["rows"]))
        other = asyncio.create_task(batcher.submit(rows(2)["rows"]))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError):
            await batcher.submit(rows(3)["rows"])
        gone.cancel()
        await asyncio.sleep(0)
        bundle.free.set()
        assert (await other)["score"] == [4.0]
        await batcher.stop()

    asyncio.run(run())


def test_a_histogram_counts_up_to_each_edge() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 7):
        histogram.add(value)
    assert histogram.lines("h") == [
        'h_bucket{le="1"} 2',
        'h_bucket{le="2"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 10.0",
        "h_count 4",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-rows", "0"], "--max-rows: 0 is less than 1"),
        (["--wait-ms", "-1"], "--wait-ms: -1.0 is less than 0"),
        (["--port", "70000"], "--port a number from 0 to 65535"),
        (["--max-queue-rows", "5"], "--max-queue-rows: 5 rows hold no request of --max-rows 1000"),
        ([], "checksums.json: is missing, so nowhere is no bundle"),
    ],
)
def test_a_command_that_cannot_be_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        job.main(["nowhere", *words])
    assert told in str(refused.value)


FAULTS = [SystemExit(3), StopIteration(), asyncio.CancelledError(), MemoryError(), KeyError("x")]


@pytest.mark.parametrize("error", FAULTS)
@pytest.mark.parametrize("together", [1, 2])
def test_no_fault_of_the_scorer_ends_the_service(error: BaseException, together: int) -> None:
    class Faulty(Doubling):
        def score(self, rows: Any) -> dict[str, Any]:
            assert self.free.wait(30)
            if any(row["x"] == 13 for row in rows):
                raise error
            return super().score(rows)

    async def act(client: httpx.AsyncClient, app: Any) -> None:
        bundle.free.clear()
        first = asyncio.create_task(client.post("/score", json={"rows": [{"x": 1}]}))
        await asyncio.sleep(0.05)  # the network is busy with it, so that those that come go together
        others = [{"rows": [{"x": 13}]}, {"rows": [{"x": 4}]}][:together]
        asked = [asyncio.create_task(client.post("/score", json=each)) for each in others]
        await asyncio.sleep(0.05)
        bundle.free.set()
        answers = [await asyncio.wait_for(each, 30) for each in (first, *asked)]
        assert [each.status_code for each in answers] == [200, 500, 200][: together + 1]
        assert (await client.get("/health")).status_code == 200
        assert (await client.post("/score", json={"rows": [{"x": 2}]})).json()["scores"] == {"score": [4.0]}

    bundle = Faulty()
    with_client(bundle, Limits(), act)


def test_a_batcher_that_has_ended_is_told_and_nobody_waits_for_it() -> None:
    async def run() -> None:
        bundle = Doubling()
        bundle.free.clear()
        batcher = Batcher(bundle.score, Limits(), Metrics())
        assert not batcher.alive
        batcher.start()
        asked = [asyncio.create_task(batcher.submit([{"x": 1}]))]
        await asyncio.sleep(0.05)
        asked.append(asyncio.create_task(batcher.submit([{"x": 2}])))
        await asyncio.sleep(0.05)
        assert batcher.alive
        assert batcher._task is not None
        batcher._task.cancel()
        with pytest.raises(RuntimeError, match="scoring has ended"):
            await asyncio.wait_for(asked[1], 10)
        assert not batcher.alive
        with pytest.raises(StoppingError):
            await batcher.submit([{"x": 3}])
        bundle.free.set()
        asked[0].cancel()

    asyncio.run(run())


def test_health_tells_of_a_batcher_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(client: httpx.AsyncClient, app: Any) -> None:
        assert (await client.get("/health")).json()["status"] == "ok"
        monkeypatch.setattr(Batcher, "alive", False)
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "failed")

    with_client(Doubling(), Limits(), act)


def test_waiting_for_others_is_as_long_as_was_said_and_ends_with_a_stop() -> None:
    async def run(wait_ms: float, stops: bool) -> tuple[list[int], float]:
        bundle = Doubling()
        batcher = Batcher(bundle.score, Limits(wait_ms=wait_ms), Metrics())
        batcher.start()
        began = asyncio.get_running_loop().time()
        asked = [asyncio.create_task(batcher.submit([{"x": 1}]))]
        if stops:
            await asyncio.sleep(0)
            await batcher.stop()
        else:
            await asyncio.sleep(0.1)
            asked.append(asyncio.create_task(batcher.submit([{"x": 2}])))
        await asyncio.gather(*asked)
        return bundle.batches, asyncio.get_running_loop().time() - began

    assert asyncio.run(run(1000, False))[0] == [2]
    assert asyncio.run(run(0, False))[0] == [1, 1]
    batches, seconds = asyncio.run(run(30_000, True))
    assert batches == [1]
    assert seconds < 10


def test_infinity_is_told_as_the_largest_number() -> None:
    class Infinite(Doubling):
        def score(self, rows: Any) -> dict[str, Any]:
            return {"score": np.array([np.inf, 1.0])}

    async def act(client: httpx.AsyncClient, app: Any) -> None:
        answer = await client.post("/score", json=rows(1, 2))
        assert answer.json()["scores"]["score"] == [1.7976931348623157e308, 1.0]

    async def refused(client: httpx.AsyncClient, app: Any) -> None:
        assert (await client.post("/score", json=rows(1, 2))).status_code == 500

    with_client(Infinite(), Limits(), act)
    Infinite.score = lambda self, rows: {"score": np.array([np.nan, 1.0])}  # type: ignore[method-assign]
    with_client(Infinite(), Limits(), refused)


def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    """asyncio sets TCP_NODELAY on the connections of a socket that names its protocol, and of no other."""
    with listening("127.0.0.1", 0) as on:
        assert on.proto == socket.IPPROTO_TCP
        with pytest.raises(InputError, match=r"cannot be listened on \(Address already in use\)"):
            listening("127.0.0.1", on.getsockname()[1])
