"""The verdict as files, and the gate's front: what a caller needs of this package, but for the slices.

URL/verdict.html     the same for people
URL/verdict.json     {"blessed": ..., "reasons": [...], "comparisons": [...], "about": {...}}; written last
"""

import json
import os
from typing import Any

from pipeline.gate.judge import judge
from pipeline.gate.page import verdict_page
from pipeline.gate.record import Comparison, Floor, Verdict
from pipeline.gate.terminal import lines
from pipeline.storage import filesystem, is_local, reason
from schemas.errors import InputError

__all__ = ["Comparison", "Floor", "Verdict", "judge", "lines", "read_verdict", "write_verdict"]

JSON_FILE, HTML_FILE = "verdict.json", "verdict.html"


def write_verdict(url: str, verdict: Verdict, about: dict[str, Any]) -> None:
    """Writes both files into the folder or fsspec URL, each whole or not at all; what was there is replaced.

    `about` says what was compared: champion, challenger, day, rows, manifest. Raises InputError where the storage
    refuses.
    """
    tree = {"blessed": verdict.blessed, **verdict.to_json(), "about": about}
    text = json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _put(f"{url}/{HTML_FILE}", verdict_page(verdict, about).html())
    _put(f"{url}/{JSON_FILE}", text)


def read_verdict(url: str) -> tuple[Verdict, dict[str, Any]] | None:
    """The verdict in the folder and what it is about; None where there is none. Raises InputError for a broken one."""
    fs, path = filesystem(f"{url}/{JSON_FILE}")
    try:
        fs.invalidate_cache()
        tree = json.loads(fs.cat_file(path))
        return Verdict.from_json(tree), tree["about"]
    except FileNotFoundError:
        return None
    except Exception as error:  # every driver has exceptions of its own; and what was cut short is no JSON
        raise InputError(f"{path}: no verdict that can be read ({reason(error)}); remove it and judge again") from error


def _put(url: str, text: str) -> None:
    fs, path = filesystem(url)
    try:
        if is_local(fs):
            folder, name = os.path.split(path)
            os.makedirs(folder, exist_ok=True)
            draft = os.path.join(folder, f".{name}.draft")
            with open(draft, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        else:
            fs.pipe_file(path, text.encode())  # an object appears whole
    except Exception as error:  # every driver has exceptions of its own
        raise InputError(f"{url}: cannot be written ({reason(error)}); see whether you may write there") from error
