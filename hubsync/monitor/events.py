"""The catalogue of log events: every name that hubsync logs, with its level, fields, sentence, meaning and cure.

``event`` and the fields are an interface: within a major version they are added, never renamed. ``message`` is for
people and may change. A test compares the catalogue with every log call, in both directions.

Templates: ``{bytes}`` puts a field as its unit asks, ``{files:file}`` counts a noun, ``[ in {took_s}]`` is left out
when one of its fields is missing. The target is put before the sentence by itself.
"""

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from hubsync.monitor.text import format_count, format_field

Level = Literal["debug", "info", "warning", "error", "any"]

# Fields that any event may carry, mostly because they are bound for a stretch of work.
COMMON_FIELDS = frozenset(
    (
        "timestamp",
        "level",
        "event",
        "message",
        "target",
        "mirror",
        "unit",
        "exception",
        "truncated",
    )
)

_PLACEHOLDER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_PART = re.compile(rf"\[([^\[\]]*)\]|{_PLACEHOLDER.pattern}")


class Event(Struct, frozen=True):
    """One thing that hubsync says: when it is said, with which fields, and what the reader can do."""

    name: str
    level: Level
    fields: tuple[str, ...]
    message: str
    meaning: str
    action: str = ""


_FAILURE = ("error", "error_kind", "retryable", "hint")

_EVENTS = (
    # --- the daemon
    Event(
        "daemon.started",
        "info",
        ("version", "config", "state_dir", "targets", "pid", "python"),
        "hubsync {version} started[ with {targets:target}][ from {config}]",
        "The daemon runs and has read its config; targets are being opened.",
    ),
    Event(
        "daemon.ready",
        "info",
        ("targets", "mirrors", "took_s"),
        "ready[: {targets:target}][, {mirrors:mirror}][, after {took_s}]",
        "All targets are watched or halted with a reason of their own; from here on the schedule runs.",
    ),
    Event(
        "daemon.reloaded",
        "info",
        ("config", "added", "removed", "changed", "took_s"),
        "config reloaded[; added {added}][; removed {removed}][; changed {changed}]",
        "A changed config or token has been taken over without a restart.",
    ),
    Event(
        "daemon.stopping",
        "info",
        ("reason", "grace_s", "hint"),
        "stopping[: {reason}][; running steps get {grace_s}]",
        "No new step begins; running ones are given the grace period and are then ended.",
    ),
    Event(
        "daemon.stopped",
        "info",
        ("reason", "uptime_s", "took_s", "clean", "given_up", "unfinished"),
        "stopped[ after {uptime_s}][; given up: {given_up}][; not through yet: {unfinished}]",
        "The daemon has ended. What is `unfinished` goes up after the next start, and nothing is lost if `clean` is false. "
        "With a longer `shutdown_grace`, more of what was `given_up` in the middle would have ended.",
    ),
    Event(
        "config.rejected",
        "error",
        ("config", "error", "error_kind", "hint"),
        "config rejected: {error}",
        "The config has problems. At a reload the former config stays in force; at the start the daemon ends.",
        "Run `hubsync check`, correct every line that it prints, then reload or start again.",
    ),
    Event(
        "control.received",
        "info",
        ("command", "targets", "uid", "pid"),
        "received {command}[ for {targets}]",
        "Somebody asked the running daemon for something: flush, pause, resume or reload.",
    ),
    Event(
        "schedule.failed",
        "error",
        ("job", *_FAILURE, "failures"),
        "{job} failed: {error}",
        "A step of the daemon itself failed, and is tried again. One that fails in a row is said at each doubling of "
        "`failures`.",
        "Do what `hint` says (room on the disk, rights); without a hint, report it with `exception` and this line.",
    ),
    Event(
        "schedule.recovered",
        "info",
        ("job", "failures"),
        "{job} works again[ after {failures:failure}]",
        "The first success after `schedule.failed`.",
    ),
    Event(
        "command.failed",
        "warning",
        ("command", "cause", "error", "error_kind", "failures"),
        "{command} did not take {cause}: {error}",
        "A command of `on_event` failed, was ended after its timeout, or is too slow for what happens.",
        "Run it by hand with a line of the log on its standard input. Nothing else waits for it.",
    ),
    Event(
        "command.recovered",
        "info",
        ("command", "failures"),
        "{command} works again[ after {failures:failure}]",
        "The first success after `command.failed`.",
    ),
    Event(
        "thread.failed",
        "error",
        ("thread", "error", "error_kind"),
        "thread {thread} ended: {error}",
        "An error that nothing expected ended a thread, or the program.",
        "Report it with this line. The service manager restarts a daemon that no longer answers.",
    ),
    Event(
        "thread.stalled",
        "error",
        ("thread", "stalled_s"),
        "{thread} has not got on[ for {stalled_s}]",
        "A part of the daemon (the scheduler, a watch, a publication) hangs, or its thread is gone. Under systemd the "
        "watchdog is not fed any more, and restarts the daemon; nothing is lost by that.",
        "See whether the source's file system answers (`ls`, `dmesg`); without systemd, restart hubsync.",
    ),
    Event(
        "thread.recovered",
        "info",
        ("thread",),
        "{thread} gets on again",
        "The part of `thread.stalled` got on again, or its target was closed.",
    ),
    Event(
        "child.ended",
        "warning",
        ("command", "stalled_s"),
        "{command} hung and was ended[ after {stalled_s}]",
        "A process that hubsync had started, such as git, was stopped (SIGSTOP), or did nothing while what waits for it "
        "stalled. What it was to do is tried again.",
        "If it comes again: see who stops processes here, and whether the file systems answer (`ls`, `dmesg`).",
    ),
    Event(
        "clock.jumped",
        "warning",
        ("jumped_s", "hint"),
        "the system clock was set, by {jumped_s}",
        "Somebody or something set the clock (back, if `jumped_s` is negative). The schedule goes on as it was; ages such "
        "as `behind_s`, and spans that reach over this line, are wrong by as much.",
        "See what sets the clock: `timedatectl`, `chronyc tracking`, the host of a virtual machine.",
    ),
    Event(
        "state.recovered",
        "warning",
        ("what", "path", "reason", "files"),
        "recovered {what}[: {reason}]",
        "What a crash, a power cut or a bad disk left behind was put right: `leftovers` such as locks, `orphans` (children "
        "of a killed hubsync), the `ledger`, `refs`, git `objects`, a `mirror`'s repository, or the end of the `queue`.",
        "Nothing, unless it comes back at each start: then look at the disk.",
    ),
    Event(
        "token.exposed",
        "warning",
        ("endpoint", "path", "hint"),
        "every user of this machine can read the token of {endpoint}[ in {path}]",
        "The file that holds a token has a mode that lets others read it. The token is used all the same.",
        "chmod 600 the file, and replace the token if somebody else may have read it.",
    ),
    # --- watch
    Event(
        "watch.started",
        "info",
        ("source", "mode"),
        "watching {source}[ by {mode}]",
        "The source is watched. `mode` says how: events, or inventory where the file system sends no events.",
    ),
    Event(
        "watch.degraded",
        "warning",
        ("source", "mode", "reason", "directories", "unwatched", "limit", "hint"),
        "changes in {source} are noticed late[: {reason}]",
        "Events do not cover the whole source. The periodic inventory still finds every file, later.",
        "Raise the sysctl that `limit` names, if it names one, or shorten `inventory_every`.",
    ),
    Event(
        "watch.overflowed",
        "warning",
        ("source",),
        "events of {source} were lost; taking an inventory",
        "More changes came at once than the kernel queues. An inventory finds what was missed.",
        "Nothing; if it comes often, exclude directories with many small files.",
    ),
    Event(
        "watch.recovered",
        "info",
        ("source", "mode"),
        "{source} is watched again[ by {mode}]",
        "Watching works again after it was degraded or the source had gone.",
    ),
    Event(
        "inventory.taken",
        "debug",
        ("files", "changed", "removed", "skipped", "took_s"),
        "inventory: {files:file}[, {changed} changed][, in {took_s}]",
        "The source was listed and compared; `changed` counts what no event had told.",
    ),
    # --- files
    Event(
        "file.captured",
        "debug",
        ("path", "oid", "bytes", "route", "pin", "reason", "took_s"),
        "captured {path}[ ({bytes})][ by {pin}]",
        "The file was whole, was read once and is pinned: from here on it reaches every mirror, come what may.",
    ),
    Event(
        "file.held",
        "info",
        ("path", "reason", "hint"),
        "held {path}: {reason}",
        "The file is quiet but not whole, or changed while it was read. It is looked at again when it changes.",
        "If the writer is done, the file is damaged: see `reason`, and `hubsync plan`.",
    ),
    Event(
        "file.unreadable",
        "warning",
        ("path", "reason", "hint"),
        "cannot read {path}: {reason}",
        "The file cannot be opened or read. It and its unit wait; everything else goes on.",
        "Give the service's user read access (for directories also search access).",
    ),
    Event(
        "file.rejected",
        "warning",
        ("path", "reason", "rule", "line", "member", "offset", "hint"),
        "not published: {path}: {reason}",
        "The file will not be published as it is: it holds a secret, has a name that no mirror takes, or is lost. Its unit "
        "waits.",
        "Take the secret out, rename the file, or exclude it; `reason` names the rule. What is lost is said once.",
    ),
    Event(
        "name.collided",
        "warning",
        ("path", "other", "hint"),
        "{path} and {other} are one name on Windows and macOS",
        "Two paths differ only by case, or by how Unicode spells them. Both are published; there, a download has one.",
        "Rename one of them, or exclude it.",
    ),
    Event(
        "secret.found",
        "warning",
        ("path", "rule", "line", "member", "offset", "hint"),
        "published although it holds {rule}: {path}",
        'The file looks as if it held a secret, and `secrets = "warn"` lets it through.',
        "Take the secret out and revoke it; what was published stays in the history of the mirrors.",
    ),
    Event(
        "secrets.tightened",
        "warning",
        ("files", "hint"),
        "{files} files that wait for a mirror were captured under weaker rules for secrets[: {hint}]",
        "`secrets` is stricter than it was, and something waits for a mirror that was not looked at so.",
        "`exclude` what must not go: that holds for what waits, too.",
    ),
    Event(
        "capture.paused",
        "warning",
        ("path", "free_bytes", "min_free_bytes", "free_inodes", "reason", "hint"),
        "capture paused[: {reason}][, on the disk of {path}]",
        "There is less free space than `min_free`, or too few inodes. Publishing goes on and frees pins; new files wait.",
        "Free some space, or see which mirror keeps the backlog: `hubsync status`.",
    ),
    Event(
        "capture.resumed",
        "info",
        ("path", "free_bytes"),
        "capture resumed[; {free_bytes} free]",
        "There is enough free space again: 5 % more than `min_free`.",
    ),
    # --- units, snapshots, objects
    Event(
        "unit.completed",
        "info",
        ("files", "bytes", "layout", "reason", "took_s"),
        "{unit} is complete[: {files:file}][, {bytes}][ ({reason})]",
        "The writer has finished the unit; it is published whole with the next snapshot, which does not wait.",
    ),
    Event(
        "unit.abandoned",
        "warning",
        ("layout", "reason", "missing", "age_s", "hint"),
        "{unit} was left incomplete[ for {age_s}][: {reason}][; missing {missing}]",
        "The unit got no completion signal within `unit_timeout`, or vanished before it had one. It is not published.",
        "If it is complete all the same, put an empty file .hubsync-complete into it; if its writer died, remove it.",
    ),
    Event(
        "snapshot.committed",
        "info",
        ("commit", "files", "bytes", "removed", "units", "lfs_files", "snapshots"),
        "committed {files:file}[ ({bytes})][, removed {removed}][ as {commit}]",
        "A batch became a snapshot in the store. It is now owed to every mirror.",
    ),
    Event(
        "object.uploaded",
        "debug",
        ("oid", "bytes", "took_s"),
        "uploaded {oid}[ ({bytes})][ in {took_s}]",
        "A mirror holds this object now; the commit that names it follows.",
    ),
    Event(
        "upload.progressed",
        "info",
        ("sent_bytes", "bytes", "files", "bytes_per_s", "left_s"),
        "sent {sent_bytes} of {bytes}[, {left_s} left]",
        "A long upload goes on. What the mirror had already is not sent, so that it may end earlier than said.",
    ),
    Event(
        "object.released",
        "debug",
        ("oid", "bytes"),
        "released {oid}[ ({bytes})]",
        "Every mirror holds this object; its pin is gone and the space is free.",
    ),
    Event(
        "object.spoiled",
        "warning",
        ("oid", "path", "bytes", "hint"),
        "what was kept[ of {path}] to be sent was changed, and is dropped[; {hint}]",
        "A file was rewritten in place while it waited, or the disk or a hand changed a copy of it. What was changed is "
        "never sent: it is taken from the source or a mirror that has it, else the next state of the file is published "
        "instead.",
        'Let the writer replace files instead (write, then rename), or set `capture = "copy"` for this target. '
        "If it is set already, see the disk of the state directory.",
    ),
    Event(
        "object.missing",
        "debug",
        ("source", "files", "error"),
        "{source} did not give {files:object} back: {error}",
        "Objects that are not here any more were asked from another mirror in vain.",
    ),
    Event(
        "object.lost",
        "warning",
        ("files", "bytes", "hint"),
        "{mirror} does not have {files:object}[ ({bytes})] any more that it had[; {hint}]",
        "Before a publication names objects that the mirror was sent earlier, it is asked for them, and lacks some.",
        "They are sent again, from here or from another mirror. See what is wrong with the Hub's storage.",
    ),
    Event(
        "object.healed",
        "info",
        ("source", "files", "bytes"),
        "got {files:object}[ ({bytes})] back from {source}",
        "Objects that are not here any more came from another mirror, for one that lacks them.",
    ),
    # --- mirrors
    Event(
        "mirror.created",
        "info",
        ("repo", "repo_type", "endpoint", "branch", "private"),
        "created {repo}",
        "The repository or branch did not exist and was created; it is private unless declared otherwise.",
    ),
    Event(
        "mirror.published",
        "info",
        ("repo", "commit", "files", "bytes", "units", "pull_request", "took_s"),
        "published {files:file}[ ({bytes})] to {mirror}[ as {commit}][ in pull request {pull_request}][ in {took_s}]",
        "The mirror's head, or its pull request, holds the snapshot.",
    ),
    Event(
        "mirror.failed",
        "warning",
        ("repo", *_FAILURE, "attempt", "down_s", "next_try_s"),
        "publishing to {mirror} failed: {error}[; failing for {down_s}][; next try in {next_try_s}]",
        "A step failed that may succeed later with nothing changed here. Other mirrors are not delayed.",
        "Nothing yet; hubsync tries again by itself. `hint` says more where more is known.",
    ),
    Event(
        "mirror.parked",
        "error",
        ("repo", *_FAILURE, "attempt", "down_s", "next_try_s"),
        "{mirror} is parked: {error}[; {hint}]",
        "The mirror refuses for good: token, rights, quota, a hook. It is tried again slowly, and after a change.",
        "Do what `hint` says, then `hubsync flush` or replace the token; nothing else is needed.",
    ),
    Event(
        "mirror.recovered",
        "info",
        ("repo", "failures", "down_s"),
        "{mirror} works again[ after {failures:failure}][ in {down_s}]",
        "The first success after failures.",
    ),
    Event(
        "mirror.paced",
        "info",
        ("repo", "snapshots", "commits", "per_hour", "next_try_s"),
        "{mirror} gets {snapshots:snapshot} in {commits:commit}[; the next commit in {next_try_s}]",
        "The repository's commits of this hour are used up or nearly so: batches are widened or wait. Nothing failed.",
        "A longer `schedule` makes fewer commits; raise `max_commits_per_hour` where the Hub allows more.",
    ),
    Event(
        "pull.opened",
        "info",
        ("repo", "number", "url"),
        "opened pull request #{number} on {repo}: {url}",
        "What is published goes there until it is merged or closed (`pull_request = true`).",
        "Review and merge it; nothing shows on the branch before.",
    ),
    Event(
        "pull.merged",
        "info",
        ("repo", "number", "url"),
        "pull request #{number} on {repo} was merged",
        "The branch shows what was published. The next publication opens another one.",
    ),
    Event(
        "mirror.foreign_edit",
        "warning",
        ("repo", "branch", "paths", "files", "commit", "policy"),
        "{mirror} was edited by others[: {paths}][; kept {policy}]",
        "Others committed to paths that hubsync publishes. `policy` says whose content stays; history keeps both.",
        'If their content should stay, set `on_foreign_edit` to "theirs" for that path.',
    ),
    Event(
        "card.held",
        "warning",
        ("repo", "branch", "path", "reason"),
        "{mirror}: the card {path} is left alone: {reason}",
        "A person changed what hubsync wrote in the card, or it cannot be read; nothing in it is overwritten.",
        "Write above or below the block; delete the block and its two marks, or the whole card, to say what you want.",
    ),
    Event(
        "mirror.adopted",
        "info",
        ("repo", "branch", "commit", "previous", "reason"),
        "adopted {mirror}[ at {commit}][: {reason}]",
        "A history that is not ours, or was rewritten, is taken as the new base; equal files are not sent again.",
    ),
    Event(
        "unit.published",
        "info",
        ("repo", "commit", "revision", "lag_s"),
        "{unit} is on {mirror}[ as {revision}][, {lag_s} after its last write]",
        "The mirror holds the whole unit.",
    ),
    Event(
        "verify.passed",
        "info",
        ("repo", "commit", "files", "bytes", "read_files", "read_bytes", "took_s"),
        "{mirror} shows all {files:file} as published ({bytes})[; {read_files:content} read, {read_bytes}]",
        "A whole mirror was compared with what was published to it, each object asked for, and `read_files` contents "
        "were downloaded and hashed.",
    ),
    Event(
        "verify.failed",
        "error",
        (
            "repo",
            "commit",
            "files",
            "bytes",
            "read_files",
            "read_bytes",
            "took_s",
            "missing",
            "different",
            "dangling",
            "damaged",
            "error",
            "error_kind",
            "hint",
        ),
        "{mirror} is not as it should be: {error}",
        "A mirror lacks files, shows others' content in their place, has pointers without their objects, or gives bytes "
        "with a wrong hash; or it could not be asked. The first of the paths are listed.",
        "`hubsync verify TARGET` lists all. The next publication puts back what others removed or changed; what is lost "
        "is sent again if it is here or on another mirror.",
    ),
    Event(
        "receipt.made",
        "debug",
        ("repo", "files", "commit", "took_s"),
        "{mirror} holds {files:file}, by its own answer[ at {commit}]",
        "After a publication the mirror was asked what it shows and whether each object can be had; that is remembered as "
        "the last proof, see `hubsync safe --cached`.",
    ),
    Event(
        "receipt.failed",
        "debug",
        ("error", "error_kind", "took_s"),
        "{mirror} was not asked for receipts: {error}",
        "The mirror could not be asked what it holds. It is asked again later; nothing waits for it.",
    ),
    Event(
        "receipt.stale",
        "info",
        ("repo", "files", "paths", "reason"),
        "{mirror} does not show {files:file} any more that it was proved to hold: {reason}",
        "Somebody changed or removed files on the mirror, or its rules did; `hubsync safe` says no to them.",
        "`hubsync verify` compares the whole mirror.",
    ),
    Event(
        "unit.skipped",
        "info",
        ("repo", "reason"),
        "{unit} is not published to {mirror}[: {reason}]",
        "The mirror keeps fewer units than were waiting for it; this one would have been dropped at once.",
    ),
    # --- retention
    Event(
        "unit.dropped",
        "info",
        ("repo", "reason"),
        "{unit} goes from {mirror}[: {reason}]",
        "No rule of the mirror's `retention.remote` keeps the unit: its paths went in a commit, or its revision was "
        "deleted. It is not published there again unless it is saved again.",
    ),
    Event(
        "unit.pruned",
        "info",
        ("files", "bytes", "reason", "mirrors", "took_s"),
        "{unit} is removed here: {files:file}[ ({bytes})][, held by {mirrors}][: {reason}]",
        "No rule of `retention.local` keeps the unit, and every required mirror has just proved that it holds all of it.",
    ),
    Event(
        "unit.kept",
        "info",
        ("reason",),
        "{unit} stays here: {reason}",
        "A rule of `retention.local` keeps the unit. Said when the reason is news.",
    ),
    Event(
        "prune.held",
        "warning",
        ("reason", "hint"),
        "{unit} must not go yet: {reason}",
        "No rule keeps the unit, but a mirror does not prove that it holds it, or somebody is at work in it. Said when the "
        "reason is news.",
        "Do what `hint` says; it is tried again.",
    ),
    Event(
        "storage.freed",
        "info",
        ("repo", "units", "files", "bytes", "took_s"),
        "{bytes} freed on {mirror}: {files:object} of {units}; the Hub's own figures follow within 36 hours",
        "The objects of dropped units and the branch's history are destroyed (`free_storage = true`), after every other "
        "required mirror proved that it holds them. `bytes` is what the Hub listed for them; what it shows as used lags.",
    ),
    Event(
        "storage.held",
        "warning",
        ("repo", "reason", "hint"),
        "storage on {mirror} is not freed[ of {unit}]: {reason}",
        "`free_storage = true` would destroy what is not proved to be elsewhere, or the Hub refused. It is tried again.",
        "Do what `hint` says, or set `free_storage = false`.",
    ),
    Event(
        "prune.recovered",
        "warning",
        ("reason",),
        "an interrupted removal: {reason}",
        "hubsync was killed while it removed a unit. What was proved was removed to its end, all else has its name again.",
        "Nothing for the unit. See why hubsync was killed, and whether its disk and memory are well.",
    ),
    Event(
        "prune.short",
        "warning",
        ("free_bytes", "min_free_bytes", "reason"),
        "{free_bytes} free, and min_free is {min_free_bytes}[: {reason}]",
        "Less is free on the source's disk than `retention.local` asks for, and no other unit may go.",
        "Free space by hand, let the rules keep less, or see in `prune.held` what must not go yet, and why.",
    ),
    Event(
        "prune.best_unknown",
        "warning",
        ("reason",),
        "nothing tells which unit is the best: {reason}",
        "The rules have `keep_best`, and no unit's trainer_state.json names the best one or has the metric of `best`.",
        "Set `best = { metric = ..., direction = ... }` to a metric that the trainer logs.",
    ),
    # --- targets
    Event(
        "target.halted",
        "error",
        ("source", "error", "error_kind", "hint"),
        "halted: {error}[; {hint}]",
        "The source is gone, empty, or lost more than half of its paths. Capture stops, and nothing is deleted.",
        "Bring the source back (is the disk mounted?). If the files were meant to go, `hint` says how to confirm it.",
    ),
    Event(
        "target.paused",
        "warning",
        ("source", "hint"),
        "paused[: {hint}]",
        "Somebody paused the target, now or before this start: nothing of it is committed or published.",
        "Run `hubsync resume` when it may go on.",
    ),
    Event(
        "target.resumed",
        "info",
        ("source",),
        "goes on",
        "The target works again after it was halted or paused.",
    ),
    Event(
        "heartbeat",
        "info",
        (
            "state",
            "behind_s",
            "at_risk_s",
            "uptime_s",
            "newest_unit_local",
            "newest_unit_published",
            "newest_unit",
            "backlog_files",
            "backlog_bytes",
            "oldest_unpublished_s",
            "disk_held_bytes",
            "busy",
            "settled",
            "held",
            "held_s",
            "waiting",
            "mirrors_ok",
            "mirrors_failing",
            "repo",
            "required",
            "error_kind",
            "failing_s",
            "hint",
            "config_rejected_s",
        ),
        "[{mirror} is ]{state}[ ({error_kind} for {failing_s})][; {backlog_files:file} to publish][ ({backlog_bytes})]"
        "[, {behind_s} behind][; held: {waiting}][; config rejected {config_rejected_s} ago]",
        "Said at each `heartbeat` for each target (its worst required mirror), and with `mirror` for each of its mirrors. "
        "`behind_s`: age of the oldest settled byte that is not published, 0 if none waits. `at_risk_s`: training time "
        "between the newest unit that is safe there and the newest write. `held_s`: how long the oldest of what is held "
        "waits. `config_rejected_s`: for how long a changed config has not been in force.",
        "Alert on its absence, on `behind_s` and on `at_risk_s`; `hubsync status` then says which mirror and why.",
    ),
    # --- the log itself
    Event(
        "log.abridged",
        "warning",
        ("files", "path", "reason"),
        "{files:file} more are held back[, such as {path}: {reason}]",
        "More files were held, rejected or unreadable since the last inventory than are told one by one.",
        "See them all: `hubsync plan`. Many of one kind have one cause: rights, a name, a pattern to exclude.",
    ),
    Event(
        "log.dropped",
        "warning",
        ("lines",),
        "{lines:line} of the log were lost: the reader of the log was too slow or gone",
        "Nobody read the log for a while; hubsync goes on without it.",
        "See why the reader of standard error, or the journal, does not keep up.",
    ),
    Event(
        "library.logged",
        "any",
        ("library",),
        "{library} said something",
        "A line of a library that hubsync uses; its text is the message. Its wording is not ours and may change.",
    ),
)

CATALOGUE: Mapping[str, Event] = {event.name: event for event in _EVENTS}


def draw_catalogue() -> str:
    """Return the catalogue as a page of Markdown."""
    common = ", ".join(f"`{name}`" for name in ("timestamp", "level", "event", "message", "target", "mirror", "unit"))
    head = (
        "# Events of the log\n\n"
        "Written by `hubsync events --markdown`; a test compares it. `event` and the fields are an interface: within\n"
        "a major version they are added to, never renamed. `message` is for people and may change. Numbers carry\n"
        f"their unit in the name: `_s` seconds, `bytes` bytes. Any line has those that apply of {common};\n"
        " `exception` is a traceback, `truncated` says that a value was cut.\n\n"
        "| event | level | what it means | what to do | fields |\n| --- | --- | --- | --- | --- |\n"
    )
    return head + "".join(_draw_row(event) for event in CATALOGUE.values())


def draw_overview() -> str:
    """Return the catalogue as the short table of README.md: a line for each event."""
    rows = (_draw_cells(f"`{one.name}`", one.level, one.action or one.meaning) for one in CATALOGUE.values())
    return "| event | level | what to do, or what it means if there is nothing to do |\n| --- | --- | --- |\n" + "".join(
        rows
    )


def _draw_row(event: Event) -> str:
    fields = ", ".join(f"`{name}`" for name in event.fields)
    return _draw_cells(f"`{event.name}`", event.level, event.meaning, event.action, fields)


def _draw_cells(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def describe_event(name: str, fields: Mapping[str, object]) -> str:
    """Return the sentence for the event *name*; an event that nobody listed is its own sentence."""
    event = CATALOGUE.get(name)
    if event is None:
        return name

    sentence = _fill(event.message, fields)
    target = fields.get("target")
    return sentence if target is None else f"{target}: {sentence}"


def mentioned_fields(name: str) -> frozenset[str]:
    """Return the fields that the sentence of the event *name* already tells."""
    event = CATALOGUE.get(name)
    if event is None:
        return frozenset()

    return frozenset({"target", *(field for field, _ in _PLACEHOLDER.findall(event.message))})


def _has_all(part: str, fields: Mapping[str, object]) -> bool:
    return all(fields.get(name) not in (None, "", 0, (), []) for name, _ in _PLACEHOLDER.findall(part))


def _fill(template: str, fields: Mapping[str, object]) -> str:
    def put(match: re.Match[str]) -> str:
        optional, name, noun = match.groups()
        if optional is not None:
            return _fill(optional, fields) if _has_all(optional, fields) else ""

        value = fields.get(name, "?")
        return format_count(value, noun) if noun and isinstance(value, int) else format_field(name, value)

    return _PART.sub(put, template)  # in one pass: what a path holds is never taken for a template
