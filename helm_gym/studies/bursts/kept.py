"""What ``helm-gym bursts`` keeps, so that a stopped run goes on: streams, and effects by cell.

A file is found by a digest of all that it depends on. What was measured is read back to the bit;
what cannot be read is named and measured again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from helm_gym.config.scenario import Scenario
from helm_gym.errors import ConfigError
from helm_gym.evaluation.specs import make_policy
from helm_gym.files import remove_leftovers, replacing, write_text
from helm_gym.provenance import code_digest, policy_digest
from helm_gym.studies.bursts.effect import FORMS, Effect
from helm_gym.studies.bursts.streams import Stream

DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, ValidationError)
EFFECTS = TypeAdapter(list[Effect])


class Kept:
    """Finished pieces of a study in a folder; with None every piece is made anew.

    Args:
        folder: of the study.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None) -> None:
        self.reused = 0  # pieces that were there
        self._folder = None if folder is None else folder / "kept"
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._folder)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"{self._folder}: cannot be written ({reason})") from None

    def stream(
        self,
        scenario: Scenario,
        kind: str,
        seeds: Sequence[int],
        windows: int,
        make: Callable[[], Stream],
    ) -> Stream:
        """A recorded stream: the one that is kept, or a new one."""
        key = _key("helm_gym.studies.bursts.streams", scenario, kind, list(seeds), windows)
        made: Stream = self._piece(f"stream-{key}.npz", _read_stream, _write_stream, make)
        return made

    def effects(
        self, scenario: Scenario, specs: Sequence[str], seeds: int, make: Callable[[], list[Effect]]
    ) -> list[Effect]:
        """What recovery does in a cell: kept, or measured now.

        Args:
            scenario: the cell at its load.
            specs: of the bases, searches resolved.
            seeds: how many.
            make: measures it.
        """
        forms = [f"{form}:{spec}" for spec in specs for form in FORMS]
        digests = [policy_digest(spec, make_policy(spec)) for spec in (*specs, *forms)]
        key = _key("helm_gym.studies.bursts.effect", scenario, [*specs, *forms], digests, seeds)
        found: list[Effect] = self._piece(
            f"effects-{key}.json", _read_effects, _write_effects, make
        )
        return found

    def _piece(
        self,
        name: str,
        read: Callable[[Path], Any],
        write: Callable[[Path, Any], None],
        make: Callable[[], Any],
    ) -> Any:
        if self._folder is None:
            return make()
        path = self._folder / name
        if path.is_file():
            try:
                found = read(path)
            except DAMAGED as error:
                warnings.warn(f"{path} is damaged and made again ({error})", stacklevel=4)
            else:
                self.reused += 1
                return found
        found = make()
        write(path, found)
        return found


def _key(module: str, scenario: Scenario, *parts: Any) -> str:
    """16 hex digits of a scenario, the log that it replays, the code, and what else is given."""
    replay = scenario.workload.replay
    log = b"" if replay is None else Path(replay.path).read_bytes()
    about = json.dumps([scenario.digest(), *parts, code_digest(module)])
    return hashlib.sha256(about.encode() + log).hexdigest()[:16]


def _read_stream(path: Path) -> Stream:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        bursts = tuple((float(start), float(stop)) for start, stop in file["bursts"])
        return Stream(**about, signals=file["signals"], ends_s=file["ends_s"], bursts=bursts)


def _write_stream(path: Path, stream: Stream) -> None:
    about = {name: getattr(stream, name) for name in ("name", "kind", "load", "step_s")}
    with replacing(path) as file:
        np.savez(
            file,
            about=np.array(json.dumps(about)),
            signals=stream.signals,
            ends_s=stream.ends_s,
            bursts=np.array(stream.bursts, np.float64).reshape(-1, 2),
        )


def _read_effects(path: Path) -> list[Effect]:
    return EFFECTS.validate_python(json.loads(path.read_text("utf-8")))


def _write_effects(path: Path, effects: list[Effect]) -> None:
    write_text(path, json.dumps(EFFECTS.dump_python(effects)) + "\n")
