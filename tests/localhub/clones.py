import subprocess
from dataclasses import dataclass
from pathlib import Path

from hubsync.localhub import LocalHub

# No user's or system's settings: git-lfs is on, as `git lfs install` would set it.
GIT_SETTINGS = {
    "user.name": "Ada",
    "user.email": "ada@example.org",
    "init.defaultBranch": "main",
    "filter.lfs.clean": "git-lfs clean -- %f",
    "filter.lfs.smudge": "git-lfs smudge -- %f",
    "filter.lfs.process": "git-lfs filter-process",
    "filter.lfs.required": "true",
}


@dataclass(frozen=True, slots=True)
class Clone:
    """A work tree, and git in it."""

    path: Path
    environment: dict[str, str]

    def git(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run git here."""
        return subprocess.run(
            ("git", *args), cwd=self.path, env=self.environment, capture_output=True, text=True, check=check
        )

    def write(self, **files: bytes) -> None:
        """Write files whose names are plain words."""
        for name, content in files.items():
            self.put(name, content)

    def put(self, name: str, content: bytes) -> None:
        """Write one file."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def commit(self, message: str = "change") -> str:
        """Commit all there is and return the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", message)
        return self.git("rev-parse", "HEAD").stdout.strip()

    def push(self, *refs: str) -> str:
        """Push and return what git and the Hub said, with its padding taken away."""
        finished = self.git("push", "origin", *(refs or ("main",)), check=False)
        said = [line.rstrip() for line in finished.stderr.splitlines()]
        return "\n".join([*said, f"exit {finished.returncode}"])


def make_clone(url: str, path: Path, environment: dict[str, str], *args: str) -> Clone:
    subprocess.run(("git", "clone", "--quiet", *args, url, str(path)), env=environment, check=True, capture_output=True)
    return Clone(path, environment)


def with_token(hub: LocalHub) -> str:
    return hub.url.replace("://", f"://hf_user:{hub.token}@")
