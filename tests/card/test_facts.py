"""What a card says is what the files say: each fact is compared with its source."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import runs

from hubsync.card.facts import Facts, Unit, read_facts
from hubsync.card.files import SourceFiles, digest_file
from hubsync.card.history import read_metrics_csv, read_trainer_log
from hubsync.card.rules import LICENSES, is_repo_id, legal_languages, legal_license
from hubsync.card.tfevents import read_events
from hubsync.config.model import Mirror, Target
from hubsync.localhub import licenses

MIRROR = Mirror(name="m", endpoint="hub", repo_type="model", repo_id="acme/x")


def facts_of(source: Path, *units: str, **settings: Any) -> Facts:
    target = Target(name="run", source=source, mirrors=(MIRROR,), units=("checkpoint-*",))
    return read_facts(SourceFiles(target), [Unit(unit, unit) for unit in units], **settings)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


def test_a_run_of_the_trainer(source: Path) -> None:
    """Architecture, dimensions, parameters, history and results stand in the newest checkpoint's files."""
    runs.write_trainer_run(source)
    facts = facts_of(source, "checkpoint-20", "checkpoint-40")

    assert "checkpoint-40" == facts.home
    assert ("transformers", "LlamaForCausalLM") == (facts.library, facts.architecture)
    assert {"Layers": "2", "Hidden size": "64", "Context length": "2048"}.items() <= facts.model.items()
    assert facts.weights is not None
    assert {"F32": 320 * 64, "F16": 64 * 64} == facts.weights.dtypes
    assert (source / "checkpoint-40" / "model.safetensors").stat().st_size == facts.weights.bytes
    assert {"Tokenizer": "PreTrainedTokenizerFast", "Padding side": "left", "Chat template": "yes"} == facts.preprocessing
    assert {"do_sample": "yes", "temperature": "0.6", "top_p": "0.9"} == facts.generation
    assert [10, 20, 30, 40] == [point.step for point in facts.history]
    assert {"eval_loss": 0.5, "eval_accuracy": 0.66} == facts.results
    assert (0.66, "checkpoint-40") == (facts.best, facts.best_unit)
    assert [(40, 0.66), (20, 0.58)] == [(row.step, row.metric) for row in facts.units]


def test_the_arguments_stand_in_the_event_file(source: Path) -> None:
    """The Trainer's callback leaves its arguments as a text for TensorBoard; its pickled file is never opened."""
    runs.write_trainer_run(source)
    (source / "checkpoint-40" / "training_args.bin").write_bytes(b"\x80\x02cos\nsystem\n(S'false'\ntR.")
    table = facts_of(source, "checkpoint-20", "checkpoint-40").hyperparameters

    wanted = {
        "Learning rate": "5e-05", "Training batch size per device": "8", "Gradient accumulation steps": "2", "Epochs": "3",
        "Optimizer": "adamw_torch", "Learning rate scheduler": "cosine", "Warmup ratio": "0.1", "Seed": "42",
        "Precision": "bf16", "Weight decay": "0.01",
    }  # fmt: skip
    assert wanted.items() <= table.items()
    assert "Warmup steps" not in table, "off is not worth a line"


def test_arguments_in_json_come_before_those_in_events(source: Path) -> None:
    """A training_args.json is read where there is one."""
    runs.write_trainer_run(source)
    runs.write_json(source / "training_args.json", {"learning_rate": 0.1, "_n_gpu": 4})
    facts = facts_of(source, "checkpoint-40")

    assert "0.1" == facts.hyperparameters["Learning rate"]
    assert {"GPUs": "4"} == facts.hardware


def test_an_adapter(source: Path) -> None:
    """A PEFT checkpoint says its method, its base and its task."""
    runs.write_peft_run(source)
    facts = facts_of(source, "checkpoint-40")

    assert ("peft", True, ("meta-llama/Llama-3.2-1B",)) == (facts.library, facts.is_adapter, facts.base_models)
    assert facts.task is not None
    assert "text-generation" == facts.task.pipeline_tag
    method = {"Method": "LORA", "Rank": "16", "Alpha": "32", "Dropout": "0.05", "Target modules": "q_proj, v_proj"}
    assert method == facts.adapter


def test_a_run_of_lightning(source: Path) -> None:
    """The last version's hparams and metrics are read; objects of other programs are not made."""
    runs.write_lightning_run(source)
    facts = facts_of(source)

    wanted = {
        "learning_rate": "0.001",
        "batch_size": "32",
        "precision": "bf16-mixed",
        "layers": "128, 64",
        "data.name": "mnist",
    }
    assert wanted.items() <= facts.hyperparameters.items()
    assert not {"callback", "path"} & facts.hyperparameters.keys()
    assert {"val_acc": 0.91, "val_loss": 0.32} == facts.results
    assert "val_loss" == facts.metric
    assert "pytorch-lightning" == facts.library


def test_only_events(source: Path) -> None:
    """Without any other log, TensorBoard's scalars are the history."""
    (source / "logs").mkdir()
    shutil.copy(runs.EVENTS, source / "logs")
    facts = facts_of(source)

    assert [10, 20, 30, 40, 50, 60] == [point.step for point in facts.history]
    assert {"eval/loss": pytest.approx(1 / 3), "eval/accuracy": pytest.approx(0.8)} == facts.results
    assert "eval/accuracy" == facts.metric, "the arguments say so"
    assert 3.0 == facts.history[-1].epoch


def test_a_unit_is_not_credited_with_what_came_later(source: Path) -> None:
    """The results of a unit are those of its own step, however far the log goes on."""
    runs.write_trainer_run(source)
    (source / "checkpoint-20" / "trainer_state.json").unlink()
    facts = facts_of(source, "checkpoint-20", "checkpoint-40", home="checkpoint-20")

    assert {"eval/loss": pytest.approx(1.0), "eval/accuracy": pytest.approx(0.6)} == facts.results
    assert facts.results_at is not None
    assert 20 == facts.results_at.step


def test_a_torn_event_file_gives_what_is_whole() -> None:
    """However short an event file is cut, it is read to its last whole record."""
    content = runs.EVENTS.read_bytes()
    whole = read_events(content)
    counts = [sum(map(len, read_events(content[:end]).scalars.values())) for end in range(len(content) + 1)]

    assert sorted(counts) == counts
    assert sum(map(len, whole.scalars.values())) == counts[-1]


def test_broken_files_are_no_facts(source: Path) -> None:
    """What cannot be read is left out, whatever it is."""
    unit = source / "checkpoint-1"
    unit.mkdir()
    for name in ("config.json", "adapter_config.json", "trainer_state.json", "tokenizer_config.json"):
        (unit / name).write_bytes(b"\xff{")
    (unit / "model.safetensors").write_bytes(b"\xff" * 9)
    (source / "metrics.csv").write_bytes(b"\0,step\n\0")
    (source / "hparams.yaml").write_text("a: [")
    facts = facts_of(source, "checkpoint-1")

    assert (None, "", (), {}) == (facts.weights, facts.architecture, facts.history, facts.hyperparameters)


def test_odd_values_are_left_out(source: Path) -> None:
    """Types that no trainer writes, NaN and infinities make no fact and no failure."""
    state = {
        "global_step": "x",
        "best_metric": [1],
        "best_model_checkpoint": 3,
        "log_history": [
            None,
            {"step": 1, "loss": float("nan")},
            {"step": float("inf"), "loss": 1},
            {"step": 2, "loss": True},
        ],
    }
    runs.write_json(source / "config.json", {"architectures": [3], "id2label": {"0": 1}, "hidden_size": {"a": {}}})
    runs.write_json(source / "trainer_state.json", state)
    facts = facts_of(source)

    assert ((), None, "", ()) == (facts.history, facts.best, facts.best_unit, facts.labels)


def test_a_model_at_the_top_comes_first(source: Path) -> None:
    """What was saved at the end lies at the top, and is the model that the card is about."""
    runs.write_trainer_run(source)
    runs.write_json(source / "config.json", runs.LLAMA_CONFIG)
    runs.write_weights(source / "model.safetensors")
    runs.write_json(source / "eval_results.json", {"eval_loss": 0.25, "eval_runtime": 3.0, "epoch": 3.0})
    facts = facts_of(source, "checkpoint-20", "checkpoint-40")

    assert ("", {"eval_loss": 0.25}, None) == (facts.home, facts.results, facts.results_at)


def test_shards_are_added_up(source: Path) -> None:
    """The parameters of all shards count; if one cannot be read, none are told."""
    runs.write_json(source / "config.json", runs.LLAMA_CONFIG)
    for number in (1, 2):
        runs.write_weights(source / f"model-0000{number}-of-00002.safetensors")
    both = facts_of(source).weights
    (source / "model-00002-of-00002.safetensors").write_bytes(b"")

    assert both is not None
    assert 2 * (320 * 64 + 64 * 64) == both.parameters
    assert facts_of(source).weights is None


def test_a_header_is_all_that_is_read_of_weights(tmp_path: Path) -> None:
    """Weights of any size cost their header."""
    runs.write_weights(tmp_path / "model.safetensors")
    asked: list[int] = []

    def read(count: int) -> bytes:
        asked.append(count)
        return (tmp_path / "model.safetensors").read_bytes()[:count]

    assert digest_file("model.safetensors", read) is not None
    assert sum(asked) < 1000


@pytest.mark.parametrize("name", ["acme/x", "gpt2", "meta-llama/Llama-3.2-1B", "a/b.c-d_e"])
def test_a_repository(name: str) -> None:
    """These can stand in metadata."""
    assert is_repo_id(name)


@pytest.mark.parametrize(
    "name",
    [
        *("/data/models/x", "./x", "../x", "a/b/c", "~/x", "C:\\x", "out/checkpoint-500", "outputs/run"),
        *("x y", "", "a--b", "x.git"),
    ],
)
def test_a_path_of_this_machine(name: str) -> None:
    """These cannot: they are paths, or no legal names."""
    assert not is_repo_id(name)


def test_names_are_made_legal() -> None:
    """Languages lose their region, licences that the Hub does not list are named as others."""
    assert ["en", "de"] == legal_languages(["en-US", "DE", "en", "Klingonisch"])
    assert {"license": "apache-2.0"} == legal_license("Apache 2.0")
    assert {"license": "other", "license_name": "acme-internal"} == legal_license("ACME internal")


def test_no_loop_through_links_or_devices(source: Path) -> None:
    """A FIFO beside the files is not waited for."""
    runs.write_trainer_run(source)
    os.mkfifo(source / "checkpoint-40" / "metrics.csv")

    assert facts_of(source, "checkpoint-40").history


def test_the_two_logs_agree() -> None:
    """The same values come out of a Trainer's state and of a CSV."""
    state = {"log_history": [{"step": 1, "epoch": 0.5, "loss": 2.5}, {"step": 1, "epoch": 0.5, "eval_loss": 1.5}]}
    text = "step,epoch,loss,eval_loss\n1,0.5,2.5,\n1,0.5,,1.5\n"

    assert read_trainer_log(json.loads(json.dumps(state))) == read_metrics_csv(text)


def test_the_licences_are_those_of_a_hub() -> None:
    """The card names the licences that the local Hub takes, no other."""
    assert set(licenses.LICENSES) == LICENSES
