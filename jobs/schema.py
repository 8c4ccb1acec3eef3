"""Print the JSON Schema of a job's YAML, for editors."""

import argparse
import json

from schemas.job import json_schema


def main() -> None:
    """Prints the schema that schemas/job.schema.json holds."""
    argparse.ArgumentParser(prog="./launch.sh schema", description=__doc__).parse_args()
    print(json.dumps(json_schema(), indent=2))


if __name__ == "__main__":
    main()
