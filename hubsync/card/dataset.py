"""Collects what a directory of data shows, and writes the text of a dataset card, by names and sizes alone. Pure.

Splits are found as the Hub finds them: by words in file names, else in directories.
https://huggingface.co/docs/hub/datasets-file-names-and-splits
"""

import re
from collections.abc import Mapping

from msgspec import Struct

from hubsync.card.render import join_sections
from hubsync.card.tables import code, format_size, table
from hubsync.card.usage import Place, quote
from hubsync.config.model import Card

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_FORMATS = {
    ".parquet": "Parquet", ".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".json": "JSON", ".csv": "CSV", ".tsv": "TSV",
    ".txt": "text", ".arrow": "Arrow", ".tar": "WebDataset", ".zip": "ZIP", ".h5": "HDF5",
    ".png": "images", ".jpg": "images", ".jpeg": "images", ".wav": "audio", ".mp3": "audio", ".flac": "audio",
}  # fmt: skip
_LOADABLE = frozenset(("Parquet", "JSON Lines", "JSON", "CSV", "TSV", "text", "Arrow", "WebDataset", "ZIP"))
_COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
_HEADINGS = ("Dataset description", "Intended uses & limitations", "How to use", "Files", "Source data")


class Row(Struct, frozen=True):
    """The files of one split and format."""

    split: str
    form: str
    files: int
    bytes: int


def read_rows(sizes: Mapping[str, int]) -> list[Row]:
    """Return what there is, split by split; files of no format that data comes in are not counted."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for path, size in sizes.items():
        form = format_of(path)
        if form is None:
            continue
        key = split_of(path), form
        files, total = sums.get(key, (0, 0))
        sums[key] = files + 1, total + size
    order = [*_WORDS, ""]

    def place(key: tuple[str, str]) -> tuple[int, str, str]:
        return (order.index(key[0]) if key[0] in order else 0, key[0], key[1])

    return [Row(*key, *sums[key]) for key in sorted(sums, key=place)]


def split_of(path: str) -> str:
    """Return the split that *path* belongs to; empty if its name tells none."""
    *directories, name = path.split("/")
    sharded = re.fullmatch(r"(?P<split>\w+(?:[.-]\w+)*)-\d{5}-of-\d{5}\..*", name)
    for part in (name, *reversed(directories)):
        for split, words in _WORDS.items():
            if re.search(rf"(?:^|[\W_\d])(?:{'|'.join(words)})(?:$|[\W_\d])", part, re.IGNORECASE):
                return split

    return sharded["split"] if sharded and directories[-1:] == ["data"] else ""


def format_of(path: str) -> str | None:
    """Return the format of *path*; ``None`` if it is no data."""
    name = path.rpartition("/")[2]
    if name.startswith((".", "README")) or name in {"dataset_infos.json", "dataset_info.json", "state.json"}:
        return None
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)

    return _FORMATS.get(f".{name.rpartition('.')[2].lower()}")


def render_dataset_card(rows: list[Row], said: Card, place: Place, template: str | None = None) -> str:
    """Return the text of a dataset card, without metadata."""
    title = said.model_name or place.repo_id.rpartition("/")[2]
    sections = {"How to use": _usage(rows, place), "Files": _files(rows)}

    return join_sections(title, sections, said.sections, _HEADINGS, template)


def _files(rows: list[Row]) -> str:
    if not rows:
        return ""
    has_splits = any(row.split for row in rows)
    heads = [*(["Split"] if has_splits else []), "Format", "Files", "Size"]
    cells = (
        [*([code(row.split) if row.split else "—"] if has_splits else []), row.form, str(row.files), format_size(row.bytes)]
        for row in rows
    )

    return table(heads, cells, numbers_from=len(heads) - 2)


def _usage(rows: list[Row], place: Place) -> str:
    if not any(row.form in _LOADABLE for row in rows):
        return ""
    split = next((row.split for row in rows if row.split), "train")
    folder = f", data_dir={quote(place.subfolder)}" if place.subfolder else ""
    call = f"dataset = load_dataset({quote(place.repo_id)}{folder}, split={quote(split)})"

    return f"```python\nfrom datasets import load_dataset\n\n{call}\nprint(dataset[0])\n```"
