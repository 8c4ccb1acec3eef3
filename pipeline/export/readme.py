"""The README that lies in a bundle."""

import json
from typing import Any

EXAMPLES = {"integer": 7, "number": 1.5, "string": "text"}


def readme(about: dict[str, Any], engines: list[str]) -> str:
    """Markdown: what it is, how to score, what it reads and returns."""
    lines = [
        f"# {about['name']}",
        "",
        f"A ranking model ({about['arch']}, tables in {about['tables']}) of step {about['checkpoint']['step']:,}, "
        f"checkpoint {about['checkpoint']['name']}, exported {about['exported']}.",
        "",
        "It needs Python 3.11 or newer, torch "
        f"({about['torch'].split('+')[0]} made it) and numpy; pyarrow to score Parquet files. Nothing else.",
        "",
        "```python",
        "import sys",
        "",
        'sys.path.insert(0, "PATH/OF/THIS/FOLDER")',
        "from scorer import Bundle",
        "",
        'bundle = Bundle("PATH/OF/THIS/FOLDER")',
        f"scores = bundle.score([{json.dumps(example(about), ensure_ascii=False)}])",
        "```",
        "",
        "```text",
        "cd PATH/OF/THIS/FOLDER && python -m scorer ROWS.parquet SCORES.parquet",
        "```",
        "",
        "Every file is verified against checksums.json as the bundle is loaded; a changed one is refused by its name.",
        "",
        "## Fields",
        "",
        "| field | type | null |",
        "| --- | --- | --- |",
        *(f"| {f['name']} | {words(f['type'])} | {'a value' if f['null'] else 'refused'} |" for f in about["fields"]),
        "",
        "Values that the model does not know are out of vocabulary, and score as such.",
        "",
        "## Scores",
        "",
        "float64, a number a row:",
        "",
    ]
    for task in about["tasks"]:
        if task["kind"] == "binary":
            lines.append(
                f"- `p.{task['name']}`: probability given its parents' labels; `joint.{task['name']}`: on any row"
            )
        else:
            lines.append(f"- `value.{task['name']}`: the predicted number")
    if about["fusion"]:
        lines += ["- `score`, `log_score`: the fused score; a larger one comes first", ""]
        lines += ["```json", json.dumps(about["fusion"]), "```"]
    if about["calibration"]:
        lines += ["", f"Calibrated by {about['calibration']['method']} on {about['calibration']['rows']:,} rows."]
    if as_of := sorted({f["as_of"] for f in about["features"] if f.get("as_of")}):
        lines += ["", f"Features of earlier days are as they stood on {as_of[0]}: export again as days go by."]
    if "aoti" in engines:
        lines += ["", "`Bundle(PATH, 'aoti')` takes model.aoti.pt2, which runs on processors like the exporter's."]
    if "onnx" in engines:
        lines += ["", "`Bundle(PATH, 'onnx')` takes model.onnx, by onnxruntime and without torch."]
    return "\n".join(lines) + "\n"


def example(about: dict[str, Any]) -> dict[str, Any]:
    """A row of the right types."""
    row: dict[str, Any] = {}
    for field in about["fields"]:
        kind = field["type"]
        row[field["name"]] = [EXAMPLES[kind.removeprefix("list of ")]] if kind.startswith("list") else EXAMPLES[kind]
    return row


def words(kind: str) -> str:
    """A field's type in words."""
    return f"{kind}s" if kind.startswith("list") else kind
