"""Which units a mirror shows before all that was committed earlier: a plain value."""

from collections.abc import Mapping

from msgspec import Struct, field


class Ahead(Struct, frozen=True):
    """The units that a mirror shows before all that was committed earlier: the newest one does not wait for the rest.

    Attributes:
        units: unit → the snapshot that it is shown at.
        order: snapshot → its position; one that is not listed comes before all.
    """

    units: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)

    def shown_at(self, unit: str, commit: str) -> str | None:
        """Return the snapshot that *unit* is shown at instead of *commit*, if that is a later one."""
        ahead = self.units.get(unit)
        return ahead if ahead is not None and self._position(ahead) >= self._position(commit) else None

    def _position(self, commit: str) -> int:
        return self.order.get(commit, -1)
