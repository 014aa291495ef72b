"""How strict the Hub is: in which parts it takes large objects, and what it limits. By default nothing is limited."""

from msgspec import Struct


class Settings(Struct, frozen=True):
    """Limits; ``None`` is none.

    Attributes:
        single_max_bytes: larger objects go in parts; 5 GiB as on the Hub, where it is what one PUT to S3 may hold.
        part_bytes: the size of a part.
        requests_per_window: how many API requests each user has in five minutes.
        commits_per_hour: how many commits or pushes a repository takes in an hour.
        storage_bytes: how much all objects of one namespace may take.
    """

    single_max_bytes: int = 5 * 1024**3
    part_bytes: int = 64 * 1024**2
    requests_per_window: int | None = None
    commits_per_hour: int | None = None
    storage_bytes: int | None = None
