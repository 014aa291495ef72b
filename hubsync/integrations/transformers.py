"""A callback for the Trainer of transformers."""

import os
from pathlib import Path
from typing import Any

from hubsync.integrations.reporter import Reporter

try:
    from transformers import TrainerCallback
except ImportError as exc:
    raise ImportError("hubsync.integrations.transformers needs transformers: pip install transformers") from exc


class HubsyncCallback(TrainerCallback):
    """Marks every checkpoint as complete when the Trainer has saved it; with *wait*, waits for the last one at the end.

    ``Trainer(..., callbacks=[HubsyncCallback(wait="30m")])``
    """

    def __init__(self, wait: str | None = None, config: str | os.PathLike[str] | None = None) -> None:
        self._reporter = Reporter(wait, config)

    def on_save(self, args: Any, state: Any, _control: Any, **_rest: Any) -> None:  # noqa: ANN401 - transformers'
        """Mark the checkpoint that was saved."""
        if state.is_world_process_zero:
            self._reporter.note_saved(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_rest: Any) -> None:  # noqa: ANN401 - transformers'
        """Wait, if that was asked for."""
        if state.is_world_process_zero:
            self._reporter.wait()
