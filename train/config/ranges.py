"""The values that a config may have: each is of its field's type, finite, and in the field's range.

One table for the command line, for Python and for a run's config.json, which anybody may have edited.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dropfold.train.config.configs import Config, PointConfig, Signature

COUNTS = (
    *("epochs", "batch_size", "lr_epochs", "validate_every", "points", "k", "emb_dims", "noise.k", "votes", "blocks"),
    *("fewest", "validation_blocks", "hidden", "layers", "frames", "ih.blocks", "hh.blocks", "mega.blocks"),
)  # fmt: skip
Holds = Callable[[Any], bool]
# (fields, what holds, how a message says it); None, where a field may be None, is in every range.
RANGES: tuple[tuple[tuple[str, ...], Holds, str], ...] = (
    ((*COUNTS, "pool_points"), lambda value: value >= 1, "at least 1"),
    (("seed", "held_out", "shift", "padding", "lr_ahead"), lambda value: value >= 0, "at least 0"),
    ((*COUNTS, "held_out", "shift", "padding", "lr_ahead"), lambda value: value < 2**31, "below 2^31"),
    (("seed", "pool_points"), lambda value: value < 2**63, "below 2^63"),
    (
        ("lr", "clip", "std", "hidden_gain", "radius", "noise.radius", "sample_rate", "block", "stride"),
        lambda value: value > 0,
        "above 0",
    ),
    (
        ("lr_end", "lr_floor", "weight_decay", "regularization", "noise.warmup_epochs", "augment.shift", "augment.jitter"),
        lambda value: value >= 0,
        "at least 0",
    ),
    (("lr_factor", "norm_decay"), lambda value: 0 < value <= 1, "above 0, at most 1"),
    (
        ("dropout", "recurrent_dropout", "label_smoothing", "noise.p", "augment.point_dropout"),
        lambda value: 0 <= value < 1,
        "in 0 .. 1, below 1",
    ),
    (("sizes",), lambda value: all(1 <= n < 2**31 for size in value.values() for n in size), "numbers of at least 1"),
    (
        ("lr_drops",),
        lambda value: all(1 <= a < b for a, b in zip(value, (*value[1:], 2**31))),
        "numbers of at least 1, each larger than the one before",
    ),
    (("mean",), lambda value: abs(value) <= 255, "in -255 .. 255"),
    (
        ("augment.scale",),
        lambda value: 0 < value[0] <= value[1],
        "two numbers above 0, the smaller one first",
    ),
    (
        tuple(f"{matrix}.{modes}" for matrix in ("ih", "hh", "mega") for modes in ("in_modes", "out_modes", "ranks")),
        lambda value: all(1 <= one < 2**31 for one in value),
        "numbers of at least 1, below 2^31",
    ),
)  # fmt: skip


def check_options(config: Config) -> None:
    """Refuse values of another type than their field's, and values out of range.

    Raises:
        ValueError: names the field, what it must be, and what it is.
    """
    check_types(config)
    for names, holds, expected in RANGES:
        for name in names:
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part, None)
            if value is not None and not holds(value):
                raise ValueError(f"{name} must be {expected}; got {_shown(value)}.")
    if config.lr_drops and config.schedule != "step":
        raise ValueError(
            f"lr_drops are of the schedule step; got {_shown(config.lr_drops)} with {config.schedule}: give --lr-drops "
            "without numbers."
        )
    if isinstance(config, PointConfig) and config.noise.kind != "none" and not config.noise.layers:
        raise ValueError(f"noise.layers must name the layers of noise {config.noise.kind}; got none.")


def check_types(value: Any, prefix: str = "") -> None:
    """Refuse fields of a dataclass, and of those inside it, that are not of their type."""
    hints = get_type_hints(type(value))
    for field in fields(value):
        convert(hints[field.name], getattr(value, field.name), prefix + field.name)


def check_signature(signature: Signature) -> None:
    """Refuse a signature whose parts contradict one another."""
    classes, categories = len(signature.class_names), len(signature.categories)
    if any(size < 1 for size in signature.shape):
        raise ValueError(f"shape must be numbers of at least 1; got {list(signature.shape)}.")
    owners = signature.part_category
    if owners and (len(owners) != classes or not all(0 <= one < categories for one in owners)):
        raise ValueError(
            f"part_category must be {classes} numbers, one for each of class_names, below the {categories} categories; got "
            f"{_shown(owners)}."
        )
    if (mean := signature.channel_mean) or signature.channel_std:
        channels_seen = signature.shape[-1] if signature.shape else len(mean)
        if not len(mean) == len(signature.channel_std) == channels_seen or min(signature.channel_std) <= 0:
            raise ValueError(
                f"channel_mean and channel_std must be {channels_seen} numbers each, the latter above 0; got {mean} and "
                f"{signature.channel_std}."
            )
    if (channels := signature.channels) is None:
        return
    if any(count < 0 for count in channels.counts.values()):
        raise ValueError(f"channels must be counts of at least 0; got {channels}.")
    if signature.shape and signature.shape[-1] != channels.total:
        raise ValueError(
            f"shape must end with the {channels.total} channels of a point ({channels}); got {list(signature.shape)}."
        )


def convert(hint: Any, value: Any, name: str) -> Any:
    """`value`, as JSON or Python has it, as the type `hint` of a field.

    Raises:
        ValueError: it is none; names the field.
    """
    kind, options = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        first, *others = (option for option in options if option is not type(None))
        for option in others:
            with contextlib.suppress(ValueError):
                return convert(option, value, name)
        return convert(first, value, name)
    if kind is Literal:
        if not any(value == option and type(value) is type(option) for option in options):
            raise _wrong(name, f"one of {', '.join(map(str, options))}", value)
        return value
    if kind in (tuple, list):
        return kind(_convert_items(kind, options, value, name))
    if kind is dict:
        if not isinstance(value, dict):
            raise _wrong(name, "an object", value)
        return {
            convert(options[0], key, name): convert(options[1], one, f"{name}.{key}")
            for key, one in value.items()
        }
    if is_dataclass(hint):
        assert isinstance(hint, type)
        if not isinstance(value, hint):
            return read(hint, value, name)
        check_types(value, f"{name}.")
        return value
    return _convert_single(hint, value, name)


def _convert_items(kind: type, options: tuple[Any, ...], value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _wrong(name, "a list", value)
    if kind is list or options[-1] is Ellipsis:
        options = (options[0],) * len(value)
    if len(options) != len(value):
        raise _wrong(name, f"{len(options)} values", value)
    return [convert(option, one, name) for option, one in zip(options, value)]


def _convert_single(hint: Any, value: Any, name: str) -> Any:
    """Numbers, texts and paths. True is no number, 1 is one of both kinds, and numpy's are taken too."""
    value = value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) > 1e300 or not math.isfinite(value):
            raise _wrong(name, "a finite number", value)
        return float(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    raise _wrong(name, words[hint], value)


def read(kind: type, values: Any, name: str = "") -> Any:
    """A dataclass from JSON; a field that is left out has its default.

    Raises:
        ValueError: a value of another type, or a field that the class does not have.
    """
    if not isinstance(values, dict):
        raise _wrong(name, f"the fields of a {kind.__name__}", values)
    prefix = f"{name}." if name else ""
    hints, known = get_type_hints(kind), {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"there is a field {prefix}{unknown[0]}, which this version of dropfold does not know; another version may have "
            "written it."
        )
    needed = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
    if lacking := [key for key in needed if key not in values]:
        raise ValueError(f"the field {prefix}{lacking[0]} is not there.")
    return kind(
        **{key: convert(hints[key], value, prefix + key) for key, value in values.items() if key in known}
    )


def _wrong(name: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{name} must be {expected}; got {_shown(value)}.")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."
