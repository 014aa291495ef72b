"""Keeps one mirror's commits within the budget of its repository: batches are widened, then they wait; nothing fails."""

from collections.abc import Sequence

from hubsync.config.model import Endpoint, Mirror
from hubsync.mirror.limits import Limits, repo_name
from hubsync.mirror.pace import Pace, widen
from hubsync.mirror.view import Step
from hubsync.monitor.logger import get_logger
from hubsync.monitor.streak import is_said
from hubsync.monitor.text import format_duration

log = get_logger()


class Budget:
    """The commits that the repository of *mirror* may still get.

    Attributes:
        is_awaited: whether something waits for the next commit.
    """

    def __init__(self, limits: Limits, endpoint: Endpoint, mirror: Mirror) -> None:
        self._limits = limits
        self._mirror = mirror
        self._repo = repo_name(endpoint, mirror)
        self._pace = Pace(mirror.max_commits_per_hour)
        self._tight = 0  # publications in a row that found too little left
        self.is_awaited = False

    def is_spent(self, *, reserved: int = 0) -> bool:
        """Tell whether no commit may be made now, but for *reserved* ones."""
        return self._limits.commits_left(self._repo, self._pace) <= reserved

    def due_s(self) -> float | None:
        """Return in how many seconds the next commit may be made, if something waits for it."""
        return self._limits.commit_wait_s(self._repo, self._pace) if self.is_awaited else None

    def waits_for(self) -> str:
        """Return what the backlog waits for, for people to read; else nothing."""
        due_s = self.due_s()
        if due_s is None:
            return ""
        return f"its next commit, in {format_duration(due_s)}: max_commits_per_hour = {self._mirror.max_commits_per_hour}"

    def fit(self, steps: Sequence[Step], *, with_revisions: bool) -> list[Step]:
        """Return *steps* in as many commits as are left; none if that is none."""
        if not steps:
            return []
        left = self._limits.commits_left(self._repo, self._pace)
        fitting = widen(steps, left, with_revisions=with_revisions) if left else []
        self.is_awaited = not fitting or fitting[-1].snapshot.commit != steps[-1].snapshot.commit
        self._tell(len(steps), len(fitting))

        return fitting

    def count(self, commits: int) -> None:
        """Count *commits* that were made."""
        self._limits.count_commits(self._repo, self._pace, commits)

    def _tell(self, snapshots: int, commits: int) -> None:
        self._tight = self._tight + 1 if commits < snapshots else 0
        if self._tight and is_said(self._tight):
            log.info("mirror.paced", repo=self._mirror.repo_id, snapshots=snapshots, commits=commits,
                     per_hour=self._mirror.max_commits_per_hour, next_try_s=round(self.due_s() or 0.0, 1))  # fmt: skip
