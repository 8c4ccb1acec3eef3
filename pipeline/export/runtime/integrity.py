"""Whether a bundle is the one that was exported: every file by its SHA-256, and the format of what it says."""

import hashlib
import json
from pathlib import Path
from typing import Any

from .errors import BundleError

FORMAT = 2
"""Of bundle.json, of the files that it names, and of how its scorer is called."""
ABOUT, CHECKSUMS = "bundle.json", "checksums.json"
PARTS: dict[str, type] = {"data": dict, "fields": list, "features": list, "tasks": list}
"""What bundle.json tells at least; `data` is the SHA-256 of every file that a score depends on."""
AGAIN = "export the checkpoint again, or copy the bundle anew"
BLOCK = 1 << 22


def digest(path: Path) -> str:
    """The file's SHA-256."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def checked(folder: Path) -> dict[str, Any]:
    """What bundle.json says, once every file is found to be as exported. Raises BundleError naming the file."""
    sums = _json(folder, CHECKSUMS)
    files = sums.get("files")
    if not isinstance(files, dict) or ABOUT not in files:
        raise BundleError(f"{folder / CHECKSUMS}: does not list the bundle's files; {AGAIN}")
    for name, told in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path}: is missing; {AGAIN}")
        if digest(path) != told:
            raise BundleError(f"{path}: is not as it was exported (its SHA-256 is another); {AGAIN}")
    about = _json(folder, ABOUT)
    told = about.get("format")
    if type(told) is not int or told != FORMAT:
        age = "an older" if isinstance(told, int) and told < FORMAT else "another"
        raise BundleError(f"{folder / ABOUT}: {age} schema, format {told} where this reads {FORMAT}; {AGAIN}")
    # beside checksums.json, which whoever swaps a file can write anew
    lacking = [key for key in PARTS if not isinstance(about.get(key), PARTS[key])]
    if lacking:
        raise BundleError(f"{folder / ABOUT}: does not tell '{lacking[0]}'; {AGAIN}")
    for name, told in about["data"].items():
        if files.get(name) != told:
            raise BundleError(f"{folder / name}: is not the one that the model was exported with; {AGAIN}")
    return about


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing, so {folder} is no bundle; {AGAIN}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: holds no mapping; {AGAIN}")
    return content
