"""The settings of every service as one Markdown table, read from the classes themselves.

Settings modules are named, not imported: shared/ knows the services by name alone, as the supervisor does.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import get_annotations
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from shared.local.layout import SERVICES, TRAINER

ROOT: Final = Path(__file__).parents[2]
MODULES: Final = (
    "shared.settings",
    *(f"services.{service.name}.settings" for service in SERVICES),
    f"services.{TRAINER}.settings",
)


@dataclass(frozen=True)
class Row:
    variable: str
    default: str
    meaning: str


def markdown() -> str:
    """Every variable once, in the order of the data flow, with its default and its meaning."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    seen: set[str] = set()
    for row in rows():
        if row.variable not in seen:
            seen.add(row.variable)
            lines.append(f"| `{row.variable}` | {row.default} | {row.meaning} |")
    return "\n".join(lines)


def rows(modules: tuple[str, ...] = MODULES) -> Iterator[Row]:
    """The rows of the settings classes that these modules define (not of those that they import)."""
    for name in modules:
        for kind in vars(import_module(name)).values():
            if isinstance(kind, type) and issubclass(kind, BaseSettings) and kind.__module__ == name:
                yield from _rows_of(kind)


def _rows_of(kind: type[BaseSettings]) -> Iterator[Row]:
    prefix = str(kind.model_config.get("env_prefix", ""))
    # ServiceSettings' own prefix is never read: every service has the same fields under its own.
    if kind.__name__ == "ServiceSettings":
        prefix = "FINESTREAM_<SERVICE>_"
    inherited = set(get_annotations(kind.__bases__[0])) if kind.__bases__[0] is not BaseSettings else set()
    own = get_annotations(kind)
    for name, field in kind.model_fields.items():
        if not _is_nested(field) and (name in own or name not in inherited):
            variable = field.validation_alias if isinstance(field.validation_alias, str) else prefix + name.upper()
            yield Row(variable, _default(field), _cell(field.description or _plain(name)))


def _is_nested(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings)


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, list):
        value = ",".join(value)
    if isinstance(value, dict):
        value = json.dumps({name: one.model_dump(exclude_defaults=True) for name, one in value.items()})
    if isinstance(value, SecretStr) or value in ("", None):
        return ""
    if isinstance(value, Path) and value.is_absolute():  # beside the code, wherever that is installed
        value = value.relative_to(ROOT)
    return "required" if value is PydanticUndefined else f"`{_cell(str(value))}`"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
