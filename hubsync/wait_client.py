"""Waits for a publication from outside: asks the daemon, and if none runs, sees whether it has happened already."""

import contextlib

from hubsync.config.model import Config, Target
from hubsync.control import send_command
from hubsync.errors import NotRunningError
from hubsync.mirror.record import read_published
from hubsync.pipeline import store_directory
from hubsync.plan import make_plan
from hubsync.store.recovery import SNAPSHOTS
from hubsync.store.snapshot import Store
from hubsync.wait import Answer, Wish, choose_mirrors, find_lost

_GRACE_S = 5.0  # a daemon that captures a large file answers late


def wait_for(config: Config, wish: Wish, timeout_s: float | None) -> Answer:
    """Return when what *wish* asks for is published, cannot be, or *timeout_s* is over. The daemon watches, nobody polls.

    Raises:
        NotRunningError: no daemon runs, and it is not published already.
        UsageError: there is no such target or mirror.
    """
    target = config.target(wish.target)
    choose_mirrors(target, wish.mirror)
    try:
        answer = send_command(
            config.service.state_dir / "control.sock", "wait", (wish.target,), unit=wish.unit, mirror=wish.mirror,
            timeout_s=None if timeout_s is None else timeout_s + _GRACE_S, limit_s=timeout_s,
        )  # fmt: skip
    except NotRunningError as exc:
        if _is_published_already(config, target, wish):
            return Answer(True, f"{wish.unit or 'everything'} was published before; no hubsync is running", final=True)
        raise NotRunningError(f"{exc}, and {wish.unit or f'all of {target.name}'} is not published", hint=exc.hint) from exc
    except TimeoutError:
        return Answer(False, "hubsync is busy and has not answered in time", "see `hubsync status`")
    del answer["ok"]

    return Answer(**answer)


def _is_published_already(config: Config, target: Target, wish: Wish) -> bool:
    plan = make_plan(config, target)
    steps = [step for step in plan.steps if step.action in {"capture", "hold"}]
    if (plan.halted is not None and wish.unit is None) or any(wish.unit in {None, step.unit} for step in steps):
        return False
    store = Store(store_directory(target, config.service.state_dir), target.source)
    if not (store.git.git_dir / "HEAD").exists():
        return not steps and wish.unit is None
    goal = store.find_unit(wish.unit) if wish.unit else store.git.resolve(SNAPSHOTS)
    if goal is None:
        return False

    chosen = choose_mirrors(target, wish.mirror)
    with contextlib.closing(store.ledger) as ledger:
        ledger.open_existing()
        return all(
            store.is_ancestor(goal, read_published(store, one)) and not find_lost(store, one.name, goal, wish.unit)
            for one in target.mirrors
            if one.name in chosen
        )
