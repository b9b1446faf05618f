"""The rules of the tree: who may import whom, and that nothing unsafe is in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("services", "shared") for p in (ROOT / folder).rglob("*.py") if "pb" not in p.parts]
OF_FAUST = ("faust_intake", "faust_session", "faust_fetches")  # an agent of one's own would lose messages (streams.py)
INFRASTRUCTURE = {"aiokafka", "faust", "grpc", "qdrant_client", "qdrant_edge", "openai"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_imports_follow_the_tree(path: Path) -> None:
    found = list(imports(path))
    parts = path.relative_to(ROOT).parts
    if parts[0] == "services" and len(parts) > 2:
        strangers = [i for i in found if i.startswith("services.") and not i.startswith(f"services.{parts[1]}")]
        assert not strangers, "services never import each other"
    if parts[0] == "shared":
        assert not [i for i in found if i.split(".")[0] == "services"], "shared never imports services"
    if parts[:2] in (("shared", "models"), ("shared", "graph")):
        assert not [i for i in found if i.split(".")[0] in INFRASTRUCTURE], "models know no infrastructure"
    if path.stem not in OF_FAUST:
        assert not [i for i in found if i.split(".")[0] == "faust"], "shared/streams.py is the only way to Faust"
    assert not [i for i in found if i.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal")]


@pytest.mark.parametrize("path", [p for p in SOURCES if p.relative_to(ROOT).parts[0] == "services"], ids=names)
def test_only_settings_read_the_environment(path: Path) -> None:
    assert "os.environ" not in path.read_text()
    assert "getenv" not in path.read_text()
