"""Numbers that know where they come from, and the frozen models that hold them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    model_validator,
)

from helm_gym.config.safe_yaml import is_number, read_yaml
from helm_gym.errors import ConfigError, nearest

ModelT = TypeVar("ModelT", bound="Frozen")


class Frozen(BaseModel):
    """A validated value object: unknown keys are refused and nothing changes after creation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls: type[ModelT], data: Any, where: str) -> ModelT:
        """Validate ``data``, or raise a :class:`ConfigError` that names ``where`` and the key."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected a mapping of settings, got {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(cls, error, where)) from None

    def digest(self) -> str:
        """Return 16 hex digits that change whenever any value in the tree changes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Quantity(Frozen):
    """One number with its unit and source; ``assumed`` ones can be listed and swept."""

    value: float
    unit: str = ""
    source: str = "set in this file"
    assumed: bool = False
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _range_holds_value(self) -> Quantity:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= self.value <= high:
            raise ValueError(f"value {self.value:g} lies outside its own range [{low:g}, {high:g}]")
        return self


def _from_number(data: Any) -> Any:
    if isinstance(data, str) and is_number(data):  # YAML 1.1 takes 1e25 for a text
        return {"value": float(data)}
    if isinstance(data, (int, float)) and not isinstance(data, bool):
        try:
            return {"value": float(data)}
        except OverflowError:
            raise ValueError("is no number that a computer can hold") from None
    return data


def _positive(quantity: Any) -> Any:
    data = _from_number(quantity)
    value = (
        data.value
        if isinstance(data, Quantity)
        else data.get("value")
        if isinstance(data, Mapping)
        else None
    )
    if isinstance(value, (int, float)) and not value > 0:
        raise ValueError(f"must be greater than 0, got {value!r:.20}")
    return data


def within(low: float, high: float) -> AfterValidator:
    """Refuse a number, or a :class:`Quantity` with its sweep range, outside ``[low, high]``."""

    def check(given: Any) -> Any:
        values = [given]
        if isinstance(given, Quantity):
            values = [given.value, given.low, given.high]
        for value in values:
            if value is not None and not low <= value <= high:
                raise ValueError(f"must lie in [{low:g}, {high:g}], got {value:g}")
        return given

    return AfterValidator(check)


def _whole(quantity: Quantity) -> Quantity:
    if not quantity.value.is_integer():
        raise ValueError(f"must be a whole number, got {quantity.value:g}")
    return quantity


# Ranges are physical and generous: they keep out what no machine and no trace can have, and what
# no computer can simulate. Kernels need none of them to stay inside their arrays.
Number = Annotated[Quantity, BeforeValidator(_from_number)]
"""A :class:`Quantity`; a bare number in a file or dict is accepted too."""

Positive = Annotated[Quantity, BeforeValidator(_positive)]
"""A :class:`Quantity` greater than zero."""

Fraction = Annotated[Number, within(0, 1)]
"""A part of something."""

Count = Annotated[Number, AfterValidator(_whole), within(0, 1e8)]
"""A :class:`Quantity` that counts something."""

Weight = Annotated[Number, within(0, 1e6)]
"""A dimensionless number from 0, of the order of 1."""

Factor = Annotated[Positive, within(1e-6, 1e6)]
"""A dimensionless number greater than 0, of the order of 1."""

Coefficient = Annotated[Positive, within(1e-30, 1e6)]
"""A fitted coefficient of a kernel time, dimensionless or in us or ns; a fit may find next to 0."""

Rate = Annotated[Positive, within(1e-6, 1e18)]
"""GB/s, TFLOP/s or keys/s; huge where a fit or a preset says that it never decides."""

Seconds = Annotated[Positive, within(1e-3, 1e9)]
"""From a millisecond to 30 years."""

Milliseconds = Annotated[Positive, within(1e-6, 1e12)]
"""From a nanosecond to 30 years, which stands for never."""

Gigabytes = Annotated[Positive, within(1e-6, 1e6)]
"""From a kilobyte to a petabyte."""

RowBytes = Annotated[Positive, within(1, 1e9)]
"""Bytes of one row, key or item."""

Processors = Annotated[Positive, within(1, 1e5)]
"""Multiprocessors of a GPU."""

Tokens = Annotated[Positive, within(1, 1 << 20)]
"""Tokens or items of one request: up to a million, as every count of them has its GPU time."""

Logarithm = Annotated[Number, within(-100, 25)]
"""Mean of a natural logarithm: the median lies below 1e11, and may be next to nothing."""

Spread = Annotated[Positive, within(1e-6, 10)]
"""Standard deviation of a natural logarithm."""


def walk(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Quantity]]:
    """Yield the dotted path and value of every :class:`Quantity` below ``model``."""
    for name in type(model).model_fields:
        yield from _walk_value(getattr(model, name), f"{prefix}{name}")


def _walk_value(value: Any, path: str) -> Iterator[tuple[str, Quantity]]:
    if isinstance(value, Quantity):
        yield path, value
    elif isinstance(value, BaseModel):
        yield from walk(value, f"{path}.")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk_value(item, f"{path}.{index}")


def load_preset(cls: type[ModelT], reference: Any, folder: Path, kind: str) -> ModelT:
    """Turn a preset name, a YAML path or a mapping into a model.

    Args:
        cls: the model to build.
        reference: ``"taobao"`` (a file in ``folder``), ``"my/file.yaml"``, a mapping or a model.
        folder: where the shipped presets live.
        kind: what to call it in errors, such as ``"profile"``.
    """
    if isinstance(reference, cls):
        return reference
    if isinstance(reference, Mapping):
        return cls.parse(reference, kind)
    if not isinstance(reference, str):
        raise ConfigError(f"{kind}: expected a name, a YAML path or a mapping, got {reference!r}")
    path = folder / f"{reference}.yaml"
    if not path.is_file():
        path = Path(reference)
        if path.suffix not in {".yaml", ".yml"}:
            known = [p.stem for p in folder.glob("*.yaml")]
            raise ConfigError(f"{kind} {reference!r} does not exist{nearest(reference, known)}")
    return cls.parse(read_yaml(path), str(path))


def explain(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    """Say in plain words, a line per fault, why ``cls`` refused the settings of ``where``."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            owner = _model_at(cls, item["loc"][:-1])
            hint = nearest(str(item["loc"][-1]), owner.model_fields) if owner else ""
            lines.append(f"{where}: {path}: unknown key{hint}")
        else:
            given = "" if item["type"] == "missing" else f" (given: {_shown(item['input'])})"
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {path + ': ' if path else ''}{message}{given}")
    return "\n".join(lines)


def _shown(given: Any) -> str:
    """The first 80 characters of a value; Python refuses to write very long integers."""
    try:
        return f"{given!r:.80}"
    except ValueError:
        return f"a {type(given).__name__} that is too long to show"


def _model_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Follow an error location to the model class that refused a key."""
    candidates: list[type[BaseModel]] = [cls]
    for part in location:
        tagged = [m for m in candidates if len(candidates) > 1 and _tag(m) == part]
        if isinstance(part, int) or tagged:
            candidates = tagged or candidates
            continue
        fields = [m.model_fields[part] for m in candidates if part in m.model_fields]
        if fields:
            candidates = [m for field in fields for m in _models(field.annotation)]
    return candidates[0] if candidates else None


def _tag(model: type[BaseModel]) -> Any:
    """Value of ``kind`` that chooses ``model`` from a union."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model class inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inside = getattr(annotation, "__args__", ())
    return [model for inner in inside for model in _models(inner)]
