"""A method's hyper-parameters, declared where they are used: type, range, default, help and source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmbal_cli.errors import RecipeError

if TYPE_CHECKING:
    from mmbal_cli.methods.base import Method


@dataclass
class Knob:
    """One hyper-parameter of a method: default, help, where the default comes from, and what is valid."""

    default: Any
    help: str
    source: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    name: str = ""
    when: str = ""
    warn_above: float | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __get__(self, instance: Method | None, owner: type) -> Any:
        return self if instance is None else instance.knobs[self.name]

    def convert(self, value: Any, method: str) -> Any:
        """`value` in the type of the default, or a RecipeError that names the valid range."""
        kind = type(self.default)
        try:
            if kind is bool:
                text = str(value).lower()
                if text not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
                    raise ValueError
                converted: Any = text in {"true", "1", "yes", "on"}
            else:
                converted = kind(str(value)) if kind is not float else float(value)
        except (TypeError, ValueError):
            raise RecipeError(
                f"method.{self.name}={value!r} of {method} is no {kind.__name__}.", self.valid()
            ) from None
        outside = isinstance(converted, (int, float)) and not (
            (self.low is None or converted >= self.low) and (self.high is None or converted <= self.high)
        )
        if outside or (self.choices and converted not in self.choices):
            raise RecipeError(f"method.{self.name}={value} of {method} is out of range.", self.valid())
        return converted

    def valid(self) -> str:
        """One sentence: the type and the range or the choices."""
        if self.choices:
            return f"Expected one of {', '.join(self.choices)}."
        low = "" if self.low is None else f" from {self.low:g}"
        high = "" if self.high is None else f" to {self.high:g}"
        return f"Expected {type(self.default).__name__}{low}{high}."


def knob(
    default: Any,
    help: str,
    *,
    source: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    name: str = "",
    when: str = "",
    warn_above: float | None = None,
) -> Any:
    """Declare a hyper-parameter in a class body, read it as an attribute.

    `name` where a hook has that name; `when="other=value"` where it only matters with that value of another knob;
    a value above `warn_above` is allowed, and its user is warned with the help text.
    """
    return Knob(default, help, source, low, high, choices, name, when, warn_above)
