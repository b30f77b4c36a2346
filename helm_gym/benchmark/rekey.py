"""Give stored rows the digests of the present code, where that code is proven to make the same.

Moving a file or renaming a function changes digests of code, and rows would count as stale. A row
keeps its figures and gets new digests if the golden trajectories are equal, and if it was made by a
state of the code that is known to give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from helm_gym.benchmark.plan import among, is_common, is_search
from helm_gym.benchmark.replay import setting_of
from helm_gym.benchmark.rows import Row, asked_digest, read_rows, row_key, write_rows
from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.golden import GOLDEN, Golden, checked
from helm_gym.evaluation.specs import from_file, make_policy
from helm_gym.provenance import code_digest, policy_digest


def rekey(
    files: Sequence[Path], golden: Path = GOLDEN, allow: Sequence[str] = ()
) -> dict[Path, int]:
    """Re-key files of rows, all or none of them.

    Args:
        files: Parquet files of ``helm-gym bench``.
        golden: file of the stored golden digests; the present code is added to it.
        allow: classes, as ``module:Class``, that the rows may name.

    Returns:
        How many rows each file holds.

    Raises:
        ConfigError: a golden trajectory changed, or a row was made by a state of the code that is
            not known to give the golden trajectories, or a row names code that is not allowed. No
            file is changed then.
    """
    stored = Golden.load(golden)
    rows = {file: read_rows(file) for file in files}
    for file, found in rows.items():
        foreign = {row["code_digest"] for row in found} - {*stored.code, code_digest()}
        if foreign:
            raise ConfigError(
                f"{file}: rows of code {min(foreign)} cannot be re-keyed, because {golden} does "
                f"not know that state; it knows {', '.join(stored.code)}. Run them again"
            )
    known = checked(stored)
    digests: dict[tuple[str, str], dict[str, str]] = {}
    renewed = {
        file: [_renewed(row, digests, allow, planned) for row in found]
        for file, found in rows.items()
        for planned in [_scenarios(found)]
    }
    for file, found in renewed.items():
        write_rows(found, file, [name for name in rows[file][0]])
    known.save(golden)
    return {file: len(found) for file, found in rows.items()}


def _scenarios(rows: Sequence[Row]) -> list[Scenario]:
    """Scenarios of a file, which its common searches were made over; empty if it has none."""
    if not any(is_common(row["policy"]) for row in rows):
        return []
    distinct = {row["scenario_digest"]: row for row in rows}
    return [setting_of(row).scenario for row in distinct.values()]


def _renewed(
    row: Row,
    digests: dict[tuple[str, str], dict[str, str]],
    allow: Sequence[str],
    planned: Sequence[Scenario],
) -> Row:
    """A row under the digests of today; those of a setting and a policy are made once."""
    where = tuple(str(row[name]) for name in ("cell", "load", "router", "steps", "scenario"))
    about = ("|".join(where), f"{row['policy']} {row['spec']}")
    if about not in digests:
        scenario = setting_of(row).scenario
        asked, spec = (from_file(row[name], "a row", allow) for name in ("policy", "spec"))
        digests[about] = {
            "scenario_digest": scenario.digest(),
            "policy_digest": policy_digest(spec, make_policy(spec, allow)),
            "asked_digest": asked_digest(
                scenario, asked, allow, *_searched(row["suite"], asked, spec, scenario, planned)
            ),
        }
    renewed = {**row, **digests[about], "code_digest": code_digest()}
    renewed["key"] = row_key(
        renewed["scenario_digest"], renewed["asked_digest"], int(renewed["seed"])
    )
    return renewed


def _searched(
    suite: str, asked: str, spec: str, scenario: Scenario, planned: Sequence[Scenario]
) -> tuple[tuple[Scenario, ...], str]:
    """What a search was made over, and in a suite, where helm-gym tune made it, what it found."""
    if suite and (is_search(asked) or is_common(asked)):
        return (), spec
    return among(asked, scenario, planned), ""
