"""What is known of a unit when it is judged, and what the judgment says."""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct, field

MARK = ".hubsync-complete"  # an empty file that our own callbacks put into a unit when it is complete; never published
UNFINISHED = "-unfinished"  # how the name of NeMo's mark ends, which lies beside a checkpoint while that is saved

# Small files whose text the caller puts into UnitFacts.markers, and whose time into marker_times, if they exist.
MARKERS = (
    "latest",  # DeepSpeed, in a directory of tags
    "../latest",  # DeepSpeed, beside a tag
    "../latest_checkpointed_iteration.txt",  # Megatron-LM, verl
    "model_index.json",  # diffusers
    "_CHECKPOINT_METADATA",  # Orbax
    MARK,
)
LINKS = ("../last",)  # symbolic links of which the caller puts where they lead into UnitFacts.markers: LeRobot


class FileFact(NamedTuple):
    """Size and time of one file of a unit."""

    size: int
    mtime_ns: int


class UnitFacts(Struct, frozen=True):
    """What is known of one unit. Paths are relative to the unit's directory, whose name is *name*.

    Attributes:
        files: every file that the rules take.
        indexes: index (``*.index.json``, ``.metadata``) -> the files it names, relative to the index.
        parent_files: names of what lies beside the unit.
        markers: text of those of :data:`MARKERS` that exist, and where :data:`LINKS` lead.
        marker_times: when those markers were written; without a time, a marker counts as new.
        complete_when: the operator's own signals, gitignore patterns; they replace the built-in ones.
        held: files that are not settled -> why.
        unreadable: those of them that this process may not read -> what the operator can do.
        writing: files and directories under temporary names that changed lately.
        untouched: files that nobody has written since the unit was published; none if it never was.
        renewed: files whose content is not what the unit was published with; none if it never was.
        changes: file -> numbers of the first and of the last look that saw it change, in the order of looks.
        unchanged_s: for how long nothing in the unit has changed, as far as is known.
    """

    name: str
    files: Mapping[str, FileFact]
    indexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parent_files: frozenset[str] = frozenset()
    markers: Mapping[str, str] = field(default_factory=dict)
    marker_times: Mapping[str, int] = field(default_factory=dict)
    complete_when: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    writing: frozenset[str] = frozenset()
    untouched: frozenset[str] = frozenset()
    renewed: frozenset[str] = frozenset()
    changes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unchanged_s: float = 0.0


class Completion(Struct, frozen=True):
    """Whether a unit is complete, the reason, the layout that said so, and the files that are still missing."""

    complete: bool
    reason: str
    layout: str
    missing: tuple[str, ...] = ()


class Lack(NamedTuple):
    """One thing that a unit lacks."""

    reason: str
    missing: tuple[str, ...] = ()
