"""What a pipeline knows of a unit that is not published as it stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hubsync.store.capture import has_same_content
from hubsync.watch.entry import Identity
from hubsync.watch.layouts import Completion


@dataclass(slots=True)
class Unit:
    """One unit; *since* is when its first change was seen. Paths are those of the source."""

    since: float
    completion: Completion = field(default_factory=lambda: Completion(False, "not judged yet", ""))
    abandoned: bool = False
    _seen: dict[str, tuple[Identity, int, int]] = field(default_factory=dict)

    def note(self, path: str, identity: Identity, number: int) -> None:
        """Note that the look of this *number* saw *path*, if its content is another one."""
        before, first, _ = self._seen.get(path, (None, number, 0))
        if before is None or not has_same_content(identity, before):
            self._seen[path] = identity, first, number

    def note_broken(self, path: str) -> None:
        """Note that *path* is not whole: to mend it is not to save it again."""
        self._seen.pop(path, None)

    def changes(self) -> Mapping[str, tuple[int, int]]:
        """Return file → numbers of the first and of the last look that saw it change."""
        return {path: (first, last) for path, (_, first, last) in self._seen.items()}

    def hold(self, reason: str) -> None:
        """Be incomplete until the next judgment."""
        self.completion = Completion(False, reason, self.completion.layout)
