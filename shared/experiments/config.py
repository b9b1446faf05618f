"""What `finestream evaluate` is asked to do: a data set, a protocol, seeds, and rows of models, as a TOML file.

    title = "Musical Instruments, time split"
    seeds = 3
    [data]                        # shared.experiments.tasks.DataSpec; paths are below --data
    name = "musical_instruments"
    reviews = "amazon2014_musical_instruments/reviews_Musical_Instruments_5.json.gz"
    [[model]]
    kind = "finerec"
    label = "FineRec, no opinions"  # as it is called in the tables; the kind itself where it is absent
    against = "FineRec"             # compared with this row; with the best baseline where it is absent
    data = { pairs = "none" }       # instead of what [data] says: of who extracts, and of what is kept of it
    opinions = false                # all other keys are fields of the model's Config

Whatever is wrong in a file is one sentence: `WrongConfig`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from shared.experiments.tasks import DataSpec
from shared.models.features import Schema
from shared.models.registry import MODELS, build, checked, needs_schema

SHIPPED: Final = Path(__file__).parent / "configs"
DEFAULT_SEEDS: Final = 3
OF_A_ROW: Final = ("extractor", "pairs")  # of a DataSpec: whatever they are, the same targets are asked


class WrongConfig(Exception):
    """One sentence for who wrote the file."""


@dataclass(frozen=True)
class Row:
    """A model as one row of the tables."""

    label: str
    kind: str
    values: Mapping[str, Any]  # fields of its Config that are not the defaults
    baseline: bool
    against: str | None
    data: Mapping[str, Any] = field(default_factory=dict)  # of OF_A_ROW

    def config(self, schema: Schema | None = None) -> Any:
        """The model's Config; `schema` goes into a config that has one. Raises ValueError for values it refuses."""
        return build(MODELS[self.kind].load()[0], self.values, schema)

    @property
    def random(self) -> bool:
        return MODELS[self.kind].random


@dataclass(frozen=True)
class Experiment:
    name: str
    title: str
    note: str
    seeds: int
    data: Mapping[str, Any]  # as written
    root: Path  # of the paths in `data`
    rows: tuple[Row, ...]

    @cached_property
    def spec(self) -> DataSpec:
        return DataSpec.of(self.data, self.root)

    def data_of(self, row: Row) -> dict[str, Any]:
        return {**self.data, **row.data}

    def spec_of(self, row: Row) -> DataSpec:
        return DataSpec.of(self.data_of(row), self.root) if row.data else self.spec

    def seeds_of(self, row: Row) -> list[int]:
        """A model without randomness is fitted once."""
        return list(range(1, self.seeds + 1)) if row.random else [1]


def shipped() -> list[str]:
    """Names of the configs that come with the code."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read(name: str, root: Path, seeds: int | None = None) -> Experiment:
    """A shipped config by name, or a file. `seeds` overrides the file's. Raises WrongConfig."""
    path = SHIPPED / f"{name}.toml" if name in shipped() else Path(name)
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise WrongConfig(f"{name} is neither a file nor one of {', '.join(shipped())}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WrongConfig(f"{name}: {error}") from None
    try:
        return _experiment(path.stem, table, root, seeds)
    except (ValueError, TypeError) as error:
        raise WrongConfig(f"{name}: {error}") from None


def _experiment(name: str, table: dict[str, Any], root: Path, seeds: int | None) -> Experiment:
    data = _taken(table, "data", dict, None)
    rows = tuple(_row(row) for row in _taken(table, "model", list, None))
    experiment = Experiment(
        name, _taken(table, "title", str, name), _taken(table, "note", str, ""),
        seeds or _taken(table, "seeds", int, DEFAULT_SEEDS), data, root, rows,
    )  # fmt: skip
    table.pop("seeds", None)
    if table:
        raise ValueError(f"there is no {', '.join(sorted(table))}; a config has title, note, seeds, data and model")
    if experiment.seeds < 1:
        raise ValueError(f"seeds is {experiment.seeds}, and has to be 1 or more")
    if not rows:
        raise ValueError("there is no [[model]]")
    labels = [row.label for row in rows]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"the label {twice[0]!r} is there twice")
    for row in rows:
        if row.against is not None and row.against not in labels:
            raise ValueError(f"{row.label!r} is compared with {row.against!r}, which is no label here")
    for row in rows:
        experiment.spec_of(row)  # what is wrong in it is to be said now
    return experiment


def _row(table: Any) -> Row:
    if not isinstance(table, dict):
        raise ValueError("write each model as [[model]]")
    values = dict(table)
    kind = _taken(values, "kind", str, None)
    if kind not in MODELS:
        raise ValueError(f"there is no model {kind!r}; there are {', '.join(MODELS)}")
    label = _taken(values, "label", str, kind)
    baseline = _taken(values, "baseline", bool, MODELS[kind].baseline)
    against = _taken(values, "against", str, "") or None
    data = _taken(values, "data", dict, {})
    if wrong := sorted(data.keys() - set(OF_A_ROW)):
        raise ValueError(f"model {label!r}: data of a row has {', '.join(OF_A_ROW)}, not {', '.join(wrong)}")
    try:
        kind_of_config = MODELS[kind].load()[0]
        row = Row(label, kind, checked(kind_of_config, values), baseline, against, data)
        if not needs_schema(kind_of_config):
            row.config()
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"model {label!r}: {error}") from None
    return row


def _taken(table: dict[str, Any], key: str, kind: type[Any], default: Any) -> Any:
    """Takes `key` out of the table; without a default it has to be there."""
    if key not in table:
        if default is None:
            raise ValueError(f"{key} is missing")
        return default
    value = table.pop(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{key} is {value!r}, and has to be {_NAMES[kind]}")
    return value


_NAMES: Final = {str: "a text", int: "a whole number", bool: "true or false", dict: "a table", list: "a list"}


def as_json(config: Any) -> dict[str, Any]:
    """A model's Config as plain values, for telling two apart."""
    return asdict(config)
