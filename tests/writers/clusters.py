"""Writers of programs for many processes: torch, DeepSpeed, Megatron-LM, verl, NeMo, Lightning, OLMo-core, Orbax."""

from disk import Disk, Done, Early, Step, Steps, archive, distcp, plain, renamed, safetensors, tensors, torch_save


def torchtitan(disk: Disk) -> Steps:
    """torch.distributed.checkpoint, in directories called step-<N>."""
    yield from distcp(disk, "step-100", 3, Done)


def deepspeed(disk: Disk) -> Steps:
    """DeepSpeedEngine.save_checkpoint in three processes; `latest` names an earlier tag until the end."""
    disk.write("run/latest", "global_step400")
    yield Step("an earlier tag")
    tag = "run/global_step500"
    yield from torch_save(disk, f"{tag}/mp_rank_00_model_states.pt")
    for rank in (2, 0, 1):
        yield from torch_save(disk, f"{tag}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    yield from plain(disk, "run/zero_to_fp32.py", "import torch\n")
    disk.write("run/latest", "global_step500")
    yield Done("latest")


def deepspeed_first(disk: Disk) -> Steps:
    """The same without an earlier tag."""
    yield from torch_save(disk, "run/best/mp_rank_00_model_states.pt")
    yield from torch_save(disk, "run/best/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    disk.write("run/latest", "best")
    yield Done("latest")


_TRACKER = "run/latest_checkpointed_iteration.txt"


def megatron(disk: Disk) -> Steps:
    """save_checkpoint in the torch_dist format; the tracker names an earlier iteration until the end."""
    unit = "run/iter_0000500"
    disk.write(_TRACKER, "400")
    yield Step("an earlier iteration")
    yield from torch_save(disk, f"{unit}/common.pt")
    yield from distcp(disk, unit, 2)
    yield from plain(disk, f"{unit}/metadata.json", {"sharded_backend": "torch_dist"})
    disk.write(_TRACKER, "500")
    yield Done("tracker")


def megatron_legacy(disk: Disk) -> Steps:
    """The same in the torch format: a directory for each rank."""
    for tensor, pipe in ((0, 0), (1, 1), (0, 1), (1, 0)):
        yield from torch_save(disk, f"run/iter_0000500/mp_rank_{tensor:02}_{pipe:03}/model_optim_rng.pt")
    disk.write(_TRACKER, "500")
    yield Done("tracker")


def verl(disk: Disk) -> Steps:
    """RayPPOTrainer._save_checkpoint: files of every rank, the loader's state, the tracker."""
    unit = "run/global_step_10"
    for rank in (1, 0):
        for kind in ("model", "optim", "extra_state"):
            yield from torch_save(disk, f"{unit}/actor/{kind}_world_size_2_rank_{rank}.pt")
    yield from plain(disk, f"{unit}/actor/huggingface/config.json", {"model_type": "qwen"})
    yield from torch_save(disk, f"{unit}/data.pt")
    disk.write(_TRACKER, "10")
    yield Done("tracker")


def nemo(disk: Disk) -> Steps:
    """ModelCheckpoint of NeMo: a marker beside the checkpoint for as long as it is saved."""
    unit = "run/model--val_loss=1.00-step=100-last"
    disk.write(f"{unit}-unfinished", "")
    yield Step("marker")
    yield from plain(disk, f"{unit}/context/model.yaml", "a: 1\n")
    yield from torch_save(disk, f"{unit}/weights/common.pt")
    yield from distcp(disk, f"{unit}/weights", 2)
    yield from plain(disk, f"{unit}/weights/metadata.json", {"sharded_backend": "torch_dist"})
    disk.remove(f"{unit}-unfinished")
    yield Done("marker removed")


def lightning_sharded(disk: Disk) -> Steps:
    """FSDPStrategy.save_checkpoint: a distributed checkpoint in a directory, then meta.pt."""
    unit = "run/epoch=0-step=10.ckpt"
    yield from distcp(disk, unit, 2)
    yield from torch_save(disk, f"{unit}/meta.pt", Done)


def lightning_file(disk: Disk) -> Steps:
    """trainer.save_checkpoint where $TMPDIR is on another file system: the last move is a copy that can be seen."""
    yield from torch_save(disk, "run/epoch=0-step=10.ckpt", Done)


def lightning_deepspeed(disk: Disk) -> Steps:
    """DeepSpeedStrategy.save_checkpoint: a directory with one tag, called checkpoint."""
    unit = "run/epoch=0-step=10.ckpt"
    yield from torch_save(disk, f"{unit}/checkpoint/mp_rank_00_model_states.pt")
    for rank in (1, 0):
        yield from torch_save(disk, f"{unit}/checkpoint/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    yield from plain(disk, f"{unit}/zero_to_fp32.py", "import torch\n")
    disk.write(f"{unit}/latest", "checkpoint")
    yield Done("latest")


def _olmo_core_end(disk: Disk) -> Steps:
    yield from renamed(disk, "run/step1000/.metadata.json", {"version": "2"}, "tmpab12cd34", Done)
    yield from renamed(disk, "run/step1000/config.json", {"model": {}}, "tmpab12cd34", Done)  # by a callback


def olmo_core(disk: Disk) -> Steps:
    """Checkpointer.save: all under a temporary name, a rename, .metadata.json."""
    for rank in (1, 0):
        yield from torch_save(disk, f"run/step1000-tmp/train/rank{rank}.pt")
    yield from distcp(disk, "run/step1000-tmp/model_and_optim", 2)
    disk.rename("run/step1000-tmp", "run/step1000")
    yield Step("renamed")
    yield from _olmo_core_end(disk)


def olmo_core_async(disk: Disk) -> Steps:
    """Checkpointer.save_async: the rename comes before the model."""
    yield from torch_save(disk, "run/step1000-tmp/train/rank0.pt")
    disk.rename("run/step1000-tmp", "run/step1000")
    yield Step("renamed")
    yield from distcp(disk, "run/step1000/model_and_optim", 2)
    yield from _olmo_core_end(disk)


def _orbax_items(disk: Disk, directory: str) -> Steps:
    disk.write(f"{directory}/_CHECKPOINT_METADATA", {"init_timestamp_nsecs": 5, "commit_timestamp_nsecs": None})
    yield Step("_CHECKPOINT_METADATA")
    disk.write(f"{directory}/default/d/abc", bytes(50))
    yield Step("data")
    yield from plain(disk, f"{directory}/default/manifest.ocdbt", bytes(50))
    yield from plain(disk, f"{directory}/default/_METADATA", '{"tree": {}}')


def orbax(disk: Disk) -> Steps:
    """AtomicRenameTemporaryPath."""
    temporary = "run/100.orbax-checkpoint-tmp-17"
    yield from _orbax_items(disk, temporary)
    disk.write(f"{temporary}/_CHECKPOINT_METADATA", {"init_timestamp_nsecs": 5, "commit_timestamp_nsecs": 6})
    yield Step("the time of the commit")
    disk.rename(temporary, "run/100")
    yield Done("renamed")


def orbax_commit_file(disk: Disk) -> Steps:
    """CommitFileTemporaryPath, for storage that cannot rename."""
    yield from _orbax_items(disk, "run/100")
    disk.write("run/100/_CHECKPOINT_METADATA", {"init_timestamp_nsecs": 5, "commit_timestamp_nsecs": 6})
    yield Early("the time of the commit")  # all content is there; a renamed checkpoint looks just like it
    disk.write("run/100/commit_success.txt", "Checkpoint commit was successful to run/100")
    yield Done("commit_success.txt")


def quantizer(disk: Disk) -> Steps:
    """llama-quantize: room for the header, the tensors, then the header."""
    header = b"GGUF" + bytes([3, 0, 0, 0]) + bytes(16)
    disk.write("gguf/README.md", "# Quantized\n")
    yield Step("README.md")
    disk.write("gguf/model.gguf", bytes(len(header)))
    yield Step("room for the header")
    disk.write("gguf/model.gguf", bytes(len(header) + 64))
    yield Step("tensors")
    disk.write("gguf/model.gguf", header + bytes(64))
    yield Done("header")


def own_signal(disk: Disk) -> Steps:
    """A writer that nobody knows, with a signal that the config names."""
    disk.write("own/notes.txt", "a\n")
    yield Step("notes.txt")
    yield from safetensors(disk, "own/model.safetensors")
    yield from plain(disk, "own/vectors.npz", archive())
    disk.write("own/_SUCCESS", "")
    yield Done("_SUCCESS")


def old_safetensors(disk: Disk) -> Steps:
    """Safetensors before 0.8: the final name, in place."""
    yield from plain(disk, "old/config.json", {"a": 1})
    yield from plain(disk, "old/model.safetensors", tensors(), Done)
