"""Makes metadata legal by the Hub's rules, and says what is not, without asking the Hub. Pure.

https://huggingface.co/docs/hub/model-cards#model-card-metadata, and the licences of
https://huggingface.co/docs/hub/repositories-licenses.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
    """.split()  # noqa: SIM905 - a table is read more easily without quotes
)
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_REPO_ID_MOST = 96
_RUN_DIRECTORY = re.compile(
    r"(?:checkpoint|global_step|step|epoch|iter)[-_]?\d+|outputs?|runs?|results?|checkpoints?|models?|tmp"
)
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_SLUG = re.compile(r"[^a-z0-9.+]+")
_LISTS = ("tags", "datasets", "metrics", "language", "base_model")


def legal_repo_ids(names: Iterable[str]) -> list[str]:
    """Return those of *names* that can be repositories of a Hub; a path of this machine cannot."""
    return list(dict.fromkeys(name for name in names if is_repo_id(name)))


def is_repo_id(name: str) -> bool:
    """Tell whether *name* can be a repository: ``owner/name`` or ``name``, and not a directory of a run."""
    parts = name.split("/")
    if len(parts) > 2 or len(name) > _REPO_ID_MOST:  # noqa: PLR2004 - owner and name
        return False
    if any(not _PART.fullmatch(part) or ".." in part or "--" in part for part in parts) or name.endswith(".git"):
        return False

    return not any(_RUN_DIRECTORY.fullmatch(part.lower()) for part in (parts[0], parts[-1]))


def legal_license(license_: str) -> dict[str, str]:
    """Return the keys that say *license_*: one of the Hub's list, else ``other`` and its name."""
    slug = slugify(license_)
    if slug in LICENSES:
        return {"license": slug}

    return {"license": "other", "license_name": slug}


def legal_languages(codes: Iterable[str]) -> list[str]:
    """Return the ISO 639 codes among *codes*, without the region."""
    found = (re.split("[-_]", code.strip().lower())[0] for code in codes)
    return list(dict.fromkeys(code for code in found if _LANGUAGE.fullmatch(code)))


def slugify(text: str) -> str:
    """Return *text* in lower case with hyphens for all that is not a letter, a digit, a dot or a plus."""
    return _SLUG.sub("-", text.strip().lower()).strip("-")


def legal_tags(tags: Iterable[str]) -> list[str]:
    """Return *tags* in one line each, each once."""
    return list(dict.fromkeys(" ".join(tag.split()) for tag in tags if tag.strip()))


def check_metadata(metadata: Mapping[str, Any]) -> list[str]:
    """Return what a Hub would refuse in *metadata*."""
    problems = [f'"{name}" {wanted}' for name, (holds, wanted) in _FIELDS.items() if not holds(metadata.get(name))]
    if not all(isinstance(name, str) for name in metadata):
        problems.append("a key is no text")

    return problems


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_text_or_list(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _is_short(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 60)  # noqa: PLR2004 - the Hub's limit


def _is_index(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(_is_model(item) for item in value))


def _is_model(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return False
    results = value.get("results")
    return isinstance(results, list) and all(_is_result(result) for result in results)


def _is_result(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    task, dataset, metrics = value.get("task"), value.get("dataset"), value.get("metrics")
    return (
        isinstance(task, dict)
        and isinstance(task.get("type"), str)
        and isinstance(dataset, dict)
        and {"name", "type"} <= dataset.keys()
        and isinstance(metrics, list)
        and all(isinstance(metric, dict) and isinstance(metric.get("type"), str) for metric in metrics)
        and all(_is_value(metric.get("value")) for metric in metrics)
    )


def _is_value(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


_TEXT = (_is_text, "must be a string")
_TEXTS = (_is_text_or_list, "must be a string or an array of strings")
_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("license", *_LISTS), _TEXTS),
    **dict.fromkeys(("library_name", "pipeline_tag", "license_name", "license_link"), _TEXT),
    "model-index": (_is_index, "must be an array of objects with a name and results"),
    "short_description": (_is_short, "length must be less than or equal to 60 characters long"),
}
