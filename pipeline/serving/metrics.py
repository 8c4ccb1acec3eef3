"""What a service counts, as Prometheus reads it (text exposition format 0.0.4). No framework."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """Counts of values up to each edge."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges, self._counts, self._sum = edges, [0] * (len(edges) + 1), 0.0

    def add(self, value: float) -> None:
        """One value more."""
        at = next((at for at, edge in enumerate(self._edges) if value <= edge), len(self._edges))
        self._counts[at] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """Its samples."""
        out, total = [], 0
        for edge, count in zip((*self._edges, float("inf")), self._counts, strict=True):
            total += count
            out.append(f'{name}_bucket{{le="{"+Inf" if edge == float("inf") else edge}"}} {total}')
        return [*out, f"{name}_sum {self._sum}", f"{name}_count {total}"]


class Metrics:
    """Counted by the event loop and by the network's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._rows = 0
        self._request_seconds, self._batch_seconds = Histogram(SECONDS), Histogram(SECONDS)
        self._batch_rows = Histogram(ROWS)
        self.queue_rows = 0
        """Rows taken on and not answered."""

    def answered(self, status: int, rows: int, seconds: float) -> None:
        """One request to /score, and the rows that it got scores for."""
        with self._lock:
            self._requests[status] += 1
            self._rows += rows
            self._request_seconds.add(seconds)

    @contextmanager
    def batch(self, rows: int) -> Iterator[None]:
        """Around one pass of rows through encoding and network."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._batch_seconds.add(time.perf_counter() - began)
                self._batch_rows.add(rows)

    def text(self) -> str:
        """The exposition."""
        with self._lock:
            parts = {
                ("scorer_requests_total", "counter", "Requests to /score by status."): [
                    f'scorer_requests_total{{status="{status}"}} {count}'
                    for status, count in sorted(self._requests.items())
                ],
                ("scorer_rows_total", "counter", "Rows scored."): [f"scorer_rows_total {self._rows}"],
                ("scorer_queue_rows", "gauge", "Rows taken on and not answered."): [
                    f"scorer_queue_rows {self.queue_rows}"
                ],
                ("scorer_request_seconds", "histogram", "From a request's body to its answer."): (
                    self._request_seconds.lines("scorer_request_seconds")
                ),
                ("scorer_batch_seconds", "histogram", "Encoding and network of a batch."): (
                    self._batch_seconds.lines("scorer_batch_seconds")
                ),
                ("scorer_batch_rows", "histogram", "Rows of a batch."): self._batch_rows.lines("scorer_batch_rows"),
            }
        lines = []
        for (name, kind, words), samples in parts.items():
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"
