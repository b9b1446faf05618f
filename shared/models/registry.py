"""Every model that can be fitted, by name, and its Config from plain values.

A model's file has a frozen dataclass `Config` and `fit(split, config, run) -> Fitted`; it is imported on use.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from shared.models.features import Schema
from shared.models.fitting import Fit


@dataclass(frozen=True)
class Model:
    """Where a kind lies. `random`: another seed gives another model. `baseline`: one to beat."""

    where: str  # module:Config,fit
    random: bool = True
    baseline: bool = True
    servable: bool = True  # Fitted.model can be published

    def load(self) -> tuple[type[Any], Fit]:
        module, names = self.where.split(":")
        config, fit = names.split(",")
        found = import_module(module)
        return getattr(found, config), getattr(found, fit)


MODELS: Final[Mapping[str, Model]] = {
    "popularity": Model("shared.models.popularity:Config,fit", random=False),
    "recency_popularity": Model("shared.models.popularity:RecencyConfig,fit", random=False),
    "item_knn": Model("shared.models.item_knn:Config,fit", random=False, servable=False),
    "sknn": Model("shared.models.sknn:Config,fit", random=False, servable=False),
    "sasrec": Model("shared.models.sasrec:Config,fit"),
    "gru4rec": Model("shared.models.gru4rec:Config,fit"),
    "bert4rec": Model("shared.models.bert4rec:Config,fit"),
    "narm": Model("shared.models.narm:Config,fit"),
    "srgnn": Model("shared.models.srgnn:Config,fit"),
    "finerec": Model("shared.models.finerec:Config,fit", baseline=False, servable=False),
    "llmesr": Model("shared.models.llmesr:Config,fit", baseline=False),
    "finestream": Model("shared.models.finestream_training:Config,fit", baseline=False),
}


def config_of(kind: str, values: Mapping[str, Any], schema: Schema) -> Any:
    """The kind's Config with these values. Raises ValueError for a field there is none of, and for a wrong value."""
    config = MODELS[kind].load()[0]
    return build(config, checked(config, values), schema)


def checked(config: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the config's fields want them. Raises ValueError for a field there is none of, or a wrong type."""
    hints = get_type_hints(config)
    known = [field.name for field in fields(config) if field.name != "schema"]
    if wrong := sorted(values.keys() - set(known)):
        raise ValueError(f"there is no {', '.join(wrong)}; there are {', '.join(known)}")
    needed = [f.name for f in fields(config) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values and name != "schema"]:
        raise ValueError(f"{', '.join(missing)} is missing")
    return {name: _as(hints[name], name, value) for name, value in values.items()}


def _as(hint: Any, name: str, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal and value in arguments:
        return value
    if origin in (Union, UnionType):
        for one in arguments:
            try:
                return _as(one, name, value)
            except ValueError:
                continue
    if origin is tuple and isinstance(value, list):
        return tuple(_as(arguments[0], name, part) for part in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, int, str, NoneType) and type(value) is hint:
        return value
    wanted = " or ".join(map(repr, arguments)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise ValueError(f"{name} is {value!r}, and has to be {wanted}")


def needs_schema(config: type[Any]) -> bool:
    """Whether the model depends on the space: then its Config is whole only with a schema."""
    return any(field.name == "schema" for field in fields(config))


def build(config: type[Any], values: Mapping[str, Any], schema: Schema | None) -> Any:
    """The Config of values that are `checked`. Raises ValueError for values that it refuses itself."""
    return config(**values, **({"schema": schema} if needs_schema(config) else {}))
