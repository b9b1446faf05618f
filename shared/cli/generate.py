"""Generated files and how each is made: gRPC code, the events' JSON Schema, the table of settings.

`python -m shared.cli.generate` writes them all; a test runs it into an empty folder and compares.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from shared import events
from shared.cli import settings_table

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
SETTINGS_TITLE = (
    "# Settings\n\nWritten by `make generate` from the settings classes; `finestream settings` prints the same.\n\n"
)
_IMPORT = re.compile(r"^from finestream\.v1 import", re.MULTILINE)


def generate(target: Path = ROOT) -> None:
    """Write every generated file under `target`, laid out as the repository is."""
    _grpc_code(target / "shared" / "pb")
    schema = target / "protos" / "events.schema.json"
    schema.parent.mkdir(parents=True, exist_ok=True)
    schema.write_text(json.dumps(event_schema(), indent=2, sort_keys=True) + "\n")
    settings = target / "docs" / "settings.md"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(SETTINGS_TITLE + settings_table.markdown() + "\n")


def event_schema() -> dict[str, Any]:
    """JSON Schema of what travels on each topic, by topic name."""
    topics = list(events.TYPE_OF)
    schemas, definitions = msgspec.json.schema_components(
        [events.TYPE_OF[topic] for topic in topics], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "finestream events: the value of a record, by topic",
        "properties": dict(zip(topics, schemas, strict=True)),
        "$defs": definitions,
    }


def _grpc_code(out: Path) -> None:
    from grpc_tools import protoc  # dev only

    out.mkdir(parents=True, exist_ok=True)
    files = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.rglob("*.proto"))]
    options = [f"--proto_path={PROTOS}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *options, *files]) != 0:
        raise SystemExit("protoc failed")
    for folder in (out, out / "finestream", out / "finestream" / "v1"):
        (folder / "__init__.py").write_text("")
    for path in out.rglob("*.py*"):
        path.write_text(_IMPORT.sub("from shared.pb.finestream.v1 import", path.read_text()))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
