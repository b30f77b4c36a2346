"""What a fit found, as a table for people and as a profile file for scenarios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from rich.table import Table

from helm_gym.config.quantity import walk
from helm_gym.config.workload import Profile
from helm_gym.workload.fit_laws import Estimate

DAY_S = 86_400.0


class Finding(NamedTuple):
    """One setting of a profile: what it became, and why."""

    setting: str
    value: str
    unit: str
    se: str  # standard error, empty where there is none
    n: int  # observations, 0 for what was not fitted
    how: str  # what was done, or why nothing could be
    fitted: bool


@dataclass(frozen=True)
class FittedProfile:
    """A profile and where each of its numbers came from."""

    profile: Profile
    file: str
    base: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, float]  # plain description of the log, no law assumed
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """YAML text for a file that ``workload.profile`` may name."""
        facts = self.facts
        head = [
            f"Fitted by helm-gym profile fit to {self.file}: {facts['events']:,.0f} events of "
            f"{facts['users']:,.0f} users on {facts['items']:,.0f} items.",
            f"Numbers marked assumed are those of profile {self.base!r}.",
            *self.notes,
        ]
        return profile_yaml(self.profile, head)

    def report(self) -> Table:
        """What was fitted, with standard errors, and what could not be."""
        facts = self.facts
        title = (
            f"{self.profile.name}: {facts['events']:,.0f} events, {facts['users']:,.0f} users, "
            f"{facts['items']:,.0f} items"
        )
        title += f", {facts['span_days']:.3g} days" if facts["span_days"] else ""
        return findings_table(title, self.findings, self.notes)


@dataclass
class Draft:
    """A profile in the making: the base's numbers, replaced one by one."""

    file: str
    base: Profile
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers: dict[str, dict[str, Any]] = {
            path: {**quantity.model_dump(mode="json"), "assumed": True}
            for path, quantity in walk(self.base)
        }

    def set(self, path: str, found: Estimate, n: int, how: str) -> None:
        """Take a fitted number over."""
        unit = self.numbers[path]["unit"]
        error = "" if found.se is None else f"{found.se:.2g}"
        tail = f", standard error {error}" if error else ""
        self.numbers[path] = {
            "value": float(f"{found.value:.6g}"),
            "unit": unit,
            "source": f"{self.file}: {how}, n = {n:,}{tail}",
        }
        self.findings.append(Finding(path, number(found.value), unit, error, n, how, True))

    def state(self, path: str, value: float, why: str) -> None:
        """Take a number over that was chosen, not fitted."""
        unit = self.numbers[path]["unit"]
        self.numbers[path] = {"value": value, "unit": unit, "source": f"{self.file}: {why}"}
        self.findings.append(Finding(path, number(value), unit, "", 0, why, True))

    def keep(self, path: str, why: str) -> None:
        """Keep the base's number, or all numbers below ``path``, as assumed."""
        kept = [known for known in self.numbers if known == path or known.startswith(f"{path}.")]
        for known in kept:
            self.numbers[known]["source"] = f"assumed: that of {self.base.name}; {why}"
        single = self.numbers[kept[0]] if len(kept) == 1 else None
        value, unit = (number(single["value"]), single["unit"]) if single else ("", "")
        self.findings.append(Finding(path, value or f"{len(kept)} values", unit, "", 0, why, False))

    def result(self, name: str) -> FittedProfile:
        """Check and freeze the profile."""
        data: dict[str, Any] = {"name": name, "hourly": [None] * 24}
        for path, quantity in self.numbers.items():
            *parents, last = path.split(".")
            if parents == ["hourly"]:
                data["hourly"][int(last)] = quantity
            else:
                (data.setdefault(parents[0], {}) if parents else data)[last] = quantity
        profile = Profile.parse(data, f"profile fitted to {self.file}")
        notes = tuple(self.notes)
        return FittedProfile(
            profile, self.file, self.base.name, tuple(self.findings), self.facts, notes
        )


def number(value: float) -> str:
    """A number in at most 4 significant digits, and whole from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def findings_table(title: str, findings: Iterable[Finding], notes: Iterable[str]) -> Table:
    """Lay findings out, the fitted ones first; assumed ones are dimmed."""
    caption = "± is one standard error with events taken as independent."
    table = Table(title=title, caption="\n".join([*notes, caption]), caption_justify="left")
    table.add_column("setting", no_wrap=True)
    table.add_column("value ± error", max_width=18)
    table.add_column("how, or why not")
    for finding in sorted(findings, key=lambda f: not f.fitted):
        unit = "" if finding.unit == "1" else f" {finding.unit}"
        error = f" ± {finding.se}" if finding.se else ""
        count = f" (n {finding.n:,})" if finding.n else ""
        style = None if finding.fitted else "dim"
        how = finding.how if finding.fitted else f"assumed: {finding.how}"
        table.add_row(finding.setting, f"{finding.value}{error}{unit}", how + count, style=style)
    return table


def profile_yaml(profile: Profile, head: Iterable[str]) -> str:
    """YAML text that a scenario's ``workload.profile`` takes, one number a line."""
    data = profile.model_dump(mode="json", exclude_defaults=True)
    lines = [f"# {line}" for line in head]
    for key, value in data.items():
        nested = isinstance(value, Mapping) and "value" not in value
        lines.append(f"{key}:" if nested or isinstance(value, list) else f"{key}: {_flow(value)}")
        if nested:
            lines += [f"  {name}: {_flow(inner)}" for name, inner in value.items()]
        elif isinstance(value, list):
            lines += [f"  - {_flow(inner)}" for inner in value]
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return str(text).removesuffix("\n").removesuffix("\n...")
