"""Draws the curves of a training as SVG, which is text and needs no LFS. The one module that knows matplotlib.

The same history gives the same bytes. matplotlib is in the optional extra ``card``; without it, nothing is drawn.
"""

import functools
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from hubsync.card.history import History, is_evaluation, is_learning_rate, is_train_loss

_PANELS_MOST = 4
_LINES_MOST = 5


class Theme(Struct, frozen=True):
    """The colours of a page."""

    ink: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme("#374151", "#e5e7eb", ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed"))
DARK = Theme("#d1d5db", "#374151", ("#60a5fa", "#fbbf24", "#34d399", "#f87171", "#a78bfa"))


class Panel(Struct, frozen=True):
    """One set of axes: its title, and names with their (step, value)."""

    title: str
    series: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]


def can_draw() -> bool:
    """Tell whether the extra is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def choose_panels(history: History) -> list[Panel]:
    """Return what is drawn: losses together, then each evaluation metric, then the learning rate."""
    series: dict[str, list[tuple[int, float]]] = {}
    for point in history:
        for name, value in point.values.items():
            series.setdefault(name, []).append((point.step, value))
    drawn = [(name, tuple(points)) for name, points in series.items() if len(points) > 1]
    losses = [(name, points) for name, points in drawn if _is_loss(name)]
    metrics = [(name, points) for name, points in drawn if is_evaluation(name) and not _is_loss(name)]
    rates = [(name, points) for name, points in drawn if is_learning_rate(name)]
    panels = [
        Panel("Loss", tuple(losses[:_LINES_MOST])),
        *(Panel(name, ((name, points),)) for name, points in metrics[: _PANELS_MOST - 2]),
        Panel("Learning rate", tuple(rates[:_LINES_MOST])),
    ]

    return [panel for panel in panels if panel.series]


def _is_loss(name: str) -> bool:
    return is_train_loss(name) or (is_evaluation(name) and name.endswith("loss"))


def draw_curves(history: History, theme: Theme) -> str | None:
    """Return the picture; ``None`` if there is nothing to draw, or nothing to draw with."""
    panels = choose_panels(history)
    return _draw(tuple(panels), theme) if panels and can_draw() else None


@functools.lru_cache(16)  # a publication that brings nothing new of the training draws nothing
def _draw(panels: Sequence[Panel], theme: Theme) -> str:
    import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: Any = {
        "svg.hashsalt": "hubsync",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": theme.ink,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.2 * min(len(panels), 2), 2.6 * ((len(panels) + 1) // 2)), layout="constrained")
        for number, panel in enumerate(panels, 1):
            _draw_panel(figure.add_subplot((len(panels) + 1) // 2, min(len(panels), 2), number), panel, theme)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})

    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _draw_panel(axes: Any, panel: Panel, theme: Theme) -> None:  # noqa: ANN401 - matplotlib's Axes
    for (name, points), colour in zip(panel.series, theme.lines, strict=False):
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 12 else ""  # noqa: PLR2004 - more would hide the line
        axes.plot(steps, values, label=_plain(name), color=colour, linewidth=1.6, marker=marker, markersize=3)
    axes.set_title(_plain(panel.title), fontsize=10, loc="left")
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, color=theme.grid, linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(panel.series) > 1:
        axes.legend(frameon=False, labelcolor=theme.ink)


def _plain(name: str) -> str:
    """Return *name* so that nothing in it is taken for mathematics, nor for a line without a label."""
    return name.replace("$", r"\$").lstrip("_")
