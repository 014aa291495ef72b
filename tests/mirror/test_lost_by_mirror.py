"""Objects that a mirror lost, or took and never showed: they are found out, sent again, and never named in vain."""

import shutil
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

MakeRig = Callable[..., Rig]
MODEL = "checkpoint-1/model.safetensors"
# As the Hub words it.
REFUSE = f"""#!/bin/sh
echo 'Your push was rejected because an LFS pointer pointed to a file that does not exist.' >&2
echo 'Offending files:' >&2
echo '  - {MODEL} (ref: refs/heads/main)' >&2
exit 1
"""


def save(rig: Rig, step: int, content: bytes) -> None:
    """Write a checkpoint as a trainer does."""
    rig.write(f"checkpoint-{step}/model.safetensors", content)
    rig.write(f"checkpoint-{step}/DONE", b"%d" % step)


@pytest.fixture
def units(server: PlainServer, make_units: MakeRig) -> Rig:
    """Give a target of checkpoints with one mirror on ``server``."""
    del server
    return make_units()


def is_put(request: Request) -> bool:
    return request.host == "storage" and request.method == "PUT"


def test_a_storage_that_acknowledges_and_shows_nothing_is_sent_the_object_until_it_does(
    units: Rig, server: PlainServer
) -> None:
    """Again at each try, and kept for that; the trainer deletes it meanwhile, and no file is called refused."""

    def swallow(request: Request) -> None:
        if is_put(request):
            raise AnswerError(200)

    hook = server.root / f"{REPO}.git" / "hooks" / "pre-receive"
    hook.write_text(REFUSE)
    hook.chmod(0o755)
    server.before = swallow
    save(units, 1, safetensors(3000))
    units.commit()
    worker = units.work.workers[0]
    shutil.rmtree(units.source / "checkpoint-1")
    puts = []
    with capture_logs() as entries:
        for _ in range(3):
            server.requests.clear()
            worker.run(now=True)
            units.work.release()
            puts.append(len([request for request in server.requests if is_put(request)]))

    assert [1, 1, 1] == puts
    assert worker.trouble is not None
    assert ("server", True) == (worker.trouble.error.error_kind, worker.trouble.error.retryable)
    assert {"mirror.failed"} == {entry["event"] for entry in entries if entry["log_level"] in {"warning", "error"}}
    server.before = lambda _: None
    hook.unlink()
    worker.run(now=True)
    assert safetensors(3000) == server.read(REPO, MODEL)
