"""Answers for paths of this machine, wherever they lie: the target that each belongs to, and what is proved of it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hubsync.config.model import Config, Target
from hubsync.proof.prove import Means, Objection, Proof, prove_paths

NO_TARGET = "it lies in no source of the config"


def locate(config: Config, path: str, cwd: Path) -> tuple[Target, str] | None:
    """Return the target whose source *path* lies in, and where; ``None`` if there is none.

    It is what ``rm`` would remove: links on the way are followed, the last part is not.
    """
    given = path.rstrip("/") or path
    parent, name = os.path.split(os.path.join(cwd, given))  # noqa: PTH118 - Path would drop a dot at the end
    real = os.path.realpath(parent if name not in {".", ".."} else f"{parent}/{name}")
    absolute = Path(real, name) if name not in {"", ".", ".."} else Path(real)
    for target in config.targets:
        source = Path(os.path.realpath(target.source))
        if path and absolute.is_relative_to(source):
            return target, "" if absolute == source else str(absolute.relative_to(source))

    return None


def prove_places(
    means: Means, places: Sequence[str], cwd: Path, *, cached: bool = False, read_data: bool = False
) -> list[Proof]:
    """Return for each of *places*, as a person or script names them, whether it may be deleted; in their order."""
    located = {place: locate(means.config, place, cwd) for place in places}
    by_target: dict[str, list[str]] = {}
    for found in located.values():
        if found is not None:
            by_target.setdefault(found[0].name, []).append(found[1])
    proofs = {
        (name, proof.path): proof
        for name, paths in by_target.items()
        for proof in prove_paths(means, means.config.target(name), paths, cached=cached, read_data=read_data)
    }

    return [_answer(place, located[place], proofs) for place in places]


def _answer(place: str, found: tuple[Target, str] | None, proofs: Mapping[tuple[str, str], Proof]) -> Proof:
    if found is None:
        return Proof(place, None, 0, 0, (Objection(place, None, NO_TARGET, "hubsync knows nothing of it"),))
    return proofs[found[0].name, found[1]]
