"""What a service takes on at most. No framework."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of requests, of batches, of what waits."""

    rows: int = 1_000
    """Of a request; more are answered with 413."""
    body_bytes: int = 4 << 20
    """Of a request; more are answered with 413."""
    body_seconds: float = 10.0
    """From a request's head to the end of its body; later ones are answered with 408."""
    queue_rows: int = 10_000
    """Rows that wait or are being scored; beyond them a request is answered with 429."""
    batch_rows: int = 512
    """That go through the network together; a request of more goes alone."""
    wait_ms: float = 0.0
    """How long the first request of a batch waits for others. Those that come while the network is busy go together
    without it."""
