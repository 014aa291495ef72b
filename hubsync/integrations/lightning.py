"""A callback for the Trainer of Lightning."""

import os
from typing import Any

from hubsync.integrations.reporter import Reporter

try:
    try:
        from lightning.pytorch import Callback
        from lightning.pytorch.plugins.io import AsyncCheckpointIO
    except ImportError:
        from pytorch_lightning import Callback
        from pytorch_lightning.plugins.io import AsyncCheckpointIO
except ImportError as exc:
    raise ImportError("hubsync.integrations.lightning needs Lightning: pip install lightning") from exc


class HubsyncCallback(Callback):
    """Marks every sharded checkpoint as complete when it is saved; with *wait*, waits for the last one at the end.

    A checkpoint that is a single file needs no mark. Lightning saves after all callbacks had their turn, so a checkpoint
    is seen one batch later, or at the end.
    """

    def __init__(self, wait: str | None = None, config: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self._reporter = Reporter(wait, config)
        self._seen: dict[int, tuple[str, int]] = {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        """Take note of what was saved after the batch before."""
        self._note_saved(trainer)

    def on_fit_end(self, trainer: Any, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        """Take note of what was saved last, and wait if that was asked for."""
        self._note_saved(trainer)
        if trainer.is_global_zero:
            self._reporter.wait()

    def _note_saved(self, trainer: Any) -> None:  # noqa: ANN401 - Lightning's
        if not trainer.is_global_zero:
            return
        is_written = not isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO)  # else it may still be writing
        for number, callback in enumerate(trainer.checkpoint_callbacks):
            path = getattr(callback, "_last_checkpoint_saved", "") or getattr(callback, "last_model_path", "")
            saved = (path, getattr(callback, "_last_global_step_saved", 0))
            if path and self._seen.get(number) != saved:
                self._seen[number] = saved
                self._reporter.note_saved(path, complete=is_written)
