"""How policies and other things are named in one line: ``KIND[(name=value,...)][:ARGUMENT]``.

``static:0.45``, ``balance:gain=0.6,bias=0.05`` and ``anchored(at=0.35,follow=0.5):ppo:released``
are specs. A kind that takes no argument of its own may have its settings in place of it. This
module only takes specs apart: what a kind means, and which settings it has, others know.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from helm_gym.errors import ConfigError, nearest


@dataclass(frozen=True)
class Spec:
    """A spec taken apart."""

    text: str  # all of it
    kind: str  # "anchored" in anchored(at=0.35):balance
    inside: str | None  # what stands in brackets, "at=0.35"; None without brackets
    argument: str  # what follows the colon, "balance"; empty without one

    @property
    def settings(self) -> str:
        """Settings of a kind without an argument of its own: in brackets or after the colon."""
        return self.argument if self.inside is None else self.inside


def parse_spec(text: str, form: str = "KIND(name=value,...):ARGUMENT") -> Spec:
    """Take a spec apart.

    Args:
        text: as written.
        form: how such a spec is written, for errors.

    Raises:
        ConfigError: a bracket is not closed, or something other than a colon follows it.
    """
    text = text.strip()
    head, _, argument = text.partition(":")
    kind, opened, _ = head.partition("(")
    if not opened:
        return Spec(text, kind.strip(), None, argument.strip())
    inside, closed, rest = text.partition("(")[2].partition(")")
    rest = rest.strip()
    if not closed:
        raise ConfigError(f"policy {text!r}: a bracket is not closed; write {form}")
    if rest and not rest.startswith(":"):
        raise ConfigError(f"policy {text!r}: {rest!r} follows the bracket; write {form}")
    return Spec(text, kind.strip(), inside.strip(), rest[1:].strip())


def parse_settings(
    text: str, where: str, form: str, known: Collection[str] = (), words: Collection[str] = ()
) -> dict[str, str]:
    """Read ``name=value`` pairs that commas part.

    Args:
        text: as written; nothing but spaces gives no settings.
        where: what has the settings, for errors, such as ``policy 'balance:gian=1'``.
        form: how they are written, for errors.
        known: the names there are; any name if empty.
        words: what may stand where a pair would, and is named in errors only.

    Returns:
        Values by name, as they are written.

    Raises:
        ConfigError: a pair has no value, its name is not known, or it stands there twice.
    """
    found: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else ():
        name, _, value = (part.strip() for part in pair.partition("="))
        if not name or not value or (known and name not in known):
            hint = nearest(name, (*known, *words)) if name else ""
            raise ConfigError(f"{where}: {pair.strip()!r} is no setting{hint}; write {form}")
        if name in found:
            raise ConfigError(f"{where}: {name} is set twice; write it once")
        found[name] = value
    return found
