"""Draws figures over time as inline SVG, with failures as bands behind them. Pure; it knows no page."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise
from statistics import median

from msgspec import Struct

from hubsync.views.story import Incident, Point, thin

_STEPS, _BARS = 240, 84  # seven days: 42 minutes a step, two hours a bar
_WIDTH, _HEIGHT = 960, 96


class Span(Struct, frozen=True):
    """The time that all charts of a page show, and the failures in it."""

    start: float
    end: float
    format_moment: Callable[[float], str]

    def place(self, moment: float) -> float:
        """Return where *moment* lies, from 0 to the chart's width."""
        share = (moment - self.start) / max(self.end - self.start, 1e-9)
        return round(min(1.0, max(0.0, share)) * _WIDTH, 1)


def count_steps(points: Sequence[Point], span: Span) -> int:
    """Return into how many stretches a line is divided: each has a point as long as the log is written."""
    rhythm_s = median(after - before for (before, _), (after, _) in pairwise(points)) if len(points) > 1 else 0.0
    return _STEPS if rhythm_s <= 0 else min(_STEPS, max(1, int((span.end - span.start) / (1.5 * rhythm_s))))


def draw_area(
    title: str, points: Iterable[Point], span: Span, form: Callable[[float], str], incidents: Sequence[Incident] = ()
) -> str:
    """Return a chart of the largest figures as a filled line; where nothing was logged there is a gap."""
    points = list(points)
    steps = count_steps(points, span)
    figures = thin(points, span.start, span.end, steps)
    top = max((figure for figure in figures if figure is not None), default=0.0)
    step = _WIDTH / steps
    shapes = []
    for first, last in _runs(figures):
        run = [(index * step, _y(figures[index], top)) for index in range(first, last)]
        run.append((last * step, run[-1][1]))
        line = " L".join(f"{x:.1f} {y:.1f}" for x, y in run)
        shapes.append(f'<path class="fill" d="M{run[0][0]:.1f} {_HEIGHT} L{line} L{run[-1][0]:.1f} {_HEIGHT} Z"/>')
        shapes.append(f'<path class="line" d="M{line}"/>')

    return _figure(title, form(top) if top else "none", "".join(shapes), span, incidents)


def draw_bars(
    title: str, points: Sequence[Point], span: Span, form: Callable[[float], str], incidents: Sequence[Incident] = ()
) -> str:
    """Return a chart of the sums of each stretch as bars."""
    figures = thin(points, span.start, span.end, _BARS, add=True)
    top = max((figure for figure in figures if figure is not None), default=0.0)
    step = _WIDTH / _BARS
    shapes = [
        f'<rect class="bar" x="{index * step + 1:.1f}" width="{step - 2:.1f}" y="{_y(figure, top):.1f}" '
        f'height="{_HEIGHT - _y(figure, top):.1f}"><title>{escape(form(figure))}</title></rect>'
        for index, figure in enumerate(figures)
        if figure
    ]
    total = form(sum(figure for _, figure in points))

    return _figure(title, total, "".join(shapes), span, incidents)


def _runs(figures: Sequence[float | None]) -> Iterable[tuple[int, int]]:
    """Yield (first, last + 1) of each stretch without a gap; one empty step between two is the log's own rhythm."""
    known = [index for index, figure in enumerate(figures) if figure is not None]
    begins = [index for before, index in zip([-9, *known], known, strict=False) if index - before > 1]
    for begin in begins:
        end = begin
        while end < len(figures) and figures[end] is not None:
            end += 1
        yield begin, end


def _y(figure: float | None, top: float) -> float:
    return _HEIGHT - (figure or 0.0) / top * (_HEIGHT - 6) if top else float(_HEIGHT)


def _figure(title: str, caption: str, shapes: str, span: Span, incidents: Sequence[Incident]) -> str:
    bands = "".join(_band(incident, span) for incident in sorted(incidents, key=lambda one: one.is_severe))
    ticks = "".join(
        f"<span>{escape(span.format_moment(span.start + (span.end - span.start) * part / 4))}</span>" for part in range(5)
    )
    return (
        f'<figure><figcaption><b>{escape(title)}</b> <span class="most">{escape(caption)}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">'
        f'{bands}{shapes}<path class="base" d="M0 {_HEIGHT} H{_WIDTH}"/></svg><div class="ticks">{ticks}</div></figure>'
    )


def _band(incident: Incident, span: Span) -> str:
    left = span.place(incident.start)
    width = max(2.0, span.place(incident.end or span.end) - left)
    kind = "band severe" if incident.is_severe else "band"
    return (
        f'<rect class="{kind}" x="{left}" width="{width:.1f}" y="0" height="{_HEIGHT}">'
        f"<title>{escape(incident.error)}</title></rect>"
    )
