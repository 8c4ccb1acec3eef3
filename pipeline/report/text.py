"""Numbers and tables as text, for a terminal."""

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """As 45s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def aligned(lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first line is its head; the first columns, as many as `words`, are words, the others numbers."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    text = [
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in ruled
    ]
    return "\n".join(line.rstrip() if words == len(widths) else line for line in text)
