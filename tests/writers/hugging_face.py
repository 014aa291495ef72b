"""Writers of transformers, PEFT, Accelerate, diffusers and LeRobot.

Each repeats the order of operations of the original, which ``hubsync.watch.layouts`` names as the source of its row.
"""

from disk import Disk, Done, Early, Step, Steps, archive, distcp, plain, renamed, safetensors, torch_save, weight_map

CHECKPOINT = "checkpoint-500"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def save_pretrained(disk: Disk, unit: str, last: type[Step] = Step) -> Steps:
    """PreTrainedModel.save_pretrained: configs, shards in order, the index."""
    yield from plain(disk, f"{unit}/config.json", {"model_type": "llama"})
    yield from plain(disk, f"{unit}/generation_config.json", {"max_length": 5})
    for shard in SHARDS:
        yield from safetensors(disk, f"{unit}/{shard}")
    yield from plain(disk, f"{unit}/model.safetensors.index.json", weight_map(*SHARDS), last)


def _tokenizer(disk: Disk, unit: str) -> Steps:
    yield from plain(disk, f"{unit}/tokenizer_config.json", {"a": 1})
    yield from plain(disk, f"{unit}/tokenizer.json", {"model": {"vocab": {}}})


def _adapter(disk: Disk, unit: str, last: type[Step] = Step) -> Steps:
    """PeftModel.save_pretrained: the card, weights, the config."""
    yield from plain(disk, f"{unit}/README.md", "# Adapter\n")
    yield from safetensors(disk, f"{unit}/adapter_model.safetensors")
    yield from plain(disk, f"{unit}/adapter_config.json", {"peft_type": "LORA"}, last)


def _training_states(disk: Disk, unit: str) -> Steps:
    yield from torch_save(disk, f"{unit}/training_args.bin")
    yield from torch_save(disk, f"{unit}/optimizer.pt")
    yield from torch_save(disk, f"{unit}/scheduler.pt")


def trainer(disk: Disk) -> Steps:
    """Trainer._save_checkpoint in one process."""
    yield from save_pretrained(disk, CHECKPOINT)
    yield from _tokenizer(disk, CHECKPOINT)
    yield from _training_states(disk, CHECKPOINT)
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state.pth")
    yield from plain(disk, f"{CHECKPOINT}/trainer_state.json", {"global_step": 500}, Done)


def trainer_weights_only(disk: Disk) -> Steps:
    """The same with save_only_model=True, and custom code that is copied first."""
    yield from plain(disk, f"{CHECKPOINT}/modeling_own.py", "import torch\n")
    yield from save_pretrained(disk, CHECKPOINT)
    yield from torch_save(disk, f"{CHECKPOINT}/training_args.bin")
    yield from plain(disk, f"{CHECKPOINT}/trainer_state.json", {"global_step": 500}, Done)


def marked(disk: Disk) -> Steps:
    """A training loop of somebody's own, with hubsync's callback."""
    yield from save_pretrained(disk, CHECKPOINT)
    yield from _training_states(disk, CHECKPOINT)
    yield from renamed(disk, f"{CHECKPOINT}/.hubsync-complete", b"", ".hubsync-complete.tmp", Done)


def trainer_adapter(disk: Disk) -> Steps:
    """The same with PEFT."""
    yield from _adapter(disk, CHECKPOINT)
    yield from _tokenizer(disk, CHECKPOINT)
    yield from _training_states(disk, CHECKPOINT)
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state.pth")
    yield from plain(disk, f"{CHECKPOINT}/trainer_state.json", {"global_step": 500}, Done)


def trainer_ranks(disk: Disk) -> Steps:
    """The same in two processes: each writes its own random state, and nobody waits for the other."""
    yield from save_pretrained(disk, CHECKPOINT)
    yield from _training_states(disk, CHECKPOINT)
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state_0.pth")
    # Nothing says that there is a second process before it opens its file; being quiet covers the time between.
    yield from plain(disk, f"{CHECKPOINT}/trainer_state.json", {"global_step": 500}, Early)
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state_1.pth", Done)


def trainer_fsdp(disk: Disk) -> Steps:
    """The same with FSDP's sharded states: they prove that there are two processes."""
    yield from distcp(disk, f"{CHECKPOINT}/pytorch_model_fsdp_0", 2)
    yield from torch_save(disk, f"{CHECKPOINT}/training_args.bin")
    yield from distcp(disk, f"{CHECKPOINT}/optimizer_0", 2)
    yield from torch_save(disk, f"{CHECKPOINT}/scheduler.pt")
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state_0.pth")
    yield from plain(disk, f"{CHECKPOINT}/trainer_state.json", {"global_step": 500})
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state_1.pth", Done)


def trainer_deepspeed(disk: Disk) -> Steps:
    """The same with DeepSpeed: its tag lies in the checkpoint, and so does `latest`."""
    tag = "global_step500"
    yield from save_pretrained(disk, CHECKPOINT)
    yield from torch_save(disk, f"{CHECKPOINT}/training_args.bin")
    for rank in (1, 0):
        yield from torch_save(disk, f"{CHECKPOINT}/{tag}/zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        yield from torch_save(disk, f"{CHECKPOINT}/{tag}/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    yield from plain(disk, f"{CHECKPOINT}/zero_to_fp32.py", "import torch\n")
    yield from plain(disk, f"{CHECKPOINT}/latest", tag)
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state_0.pth")
    yield from plain(disk, f"{CHECKPOINT}/trainer_state.json", {"global_step": 500})
    yield from torch_save(disk, f"{CHECKPOINT}/rng_state_1.pth", Done)


def trainer_interrupted(disk: Disk) -> Steps:
    """The same on SIGTERM: a sentinel lies in the checkpoint while it is saved."""
    disk.write(f"{CHECKPOINT}/checkpoint-is-incomplete.txt", "Checkpoint started\n")
    yield Step("sentinel")
    yield from save_pretrained(disk, CHECKPOINT)
    yield from _training_states(disk, CHECKPOINT)
    yield from plain(disk, f"{CHECKPOINT}/trainer_state.json", {"global_step": 500})
    disk.remove(f"{CHECKPOINT}/checkpoint-is-incomplete.txt")
    yield Done("sentinel removed")


def save_model(disk: Disk) -> Steps:
    """Call `trainer.save_model("checkpoint-final")`: no trainer_state.json will ever come."""
    unit = "checkpoint-final"
    yield from plain(disk, f"{unit}/config.json", {"model_type": "llama"})
    # The weights are whole; that a tokenizer follows, nothing says. Being quiet covers the time between.
    yield from safetensors(disk, f"{unit}/model.safetensors", Early)
    disk.write(f"{unit}/tokenizer.json", {"model": {}})
    yield Early("tokenizer.json")
    yield from torch_save(disk, f"{unit}/training_args.bin", Done)


def sharded_model(disk: Disk) -> Steps:
    """Call `model.save_pretrained("final")`."""
    yield from save_pretrained(disk, "final", Done)


def adapter(disk: Disk) -> Steps:
    """Call `peft_model.save_pretrained("adapter")`."""
    yield from _adapter(disk, "adapter", Done)


# --- Accelerate


def accelerate(disk: Disk) -> Steps:
    """Accelerator.save_state in two processes, with an object registered for checkpointing."""
    unit = "checkpoint_0"
    yield from safetensors(disk, f"{unit}/model.safetensors")
    yield from torch_save(disk, f"{unit}/optimizer.bin")
    yield from torch_save(disk, f"{unit}/scheduler.bin")
    yield from torch_save(disk, f"{unit}/sampler.bin")
    # Neither a second process nor a registered object leaves a trace before its file.
    disk.write(f"{unit}/random_states_0.pkl", archive())
    yield Early("random_states_0.pkl")
    disk.write(f"{unit}/random_states_1.pkl", archive())
    yield Early("random_states_1.pkl")
    disk.write(f"{unit}/custom_checkpoint_0.pkl", archive())
    yield Done("custom_checkpoint_0.pkl")


def accelerate_fsdp(disk: Disk) -> Steps:
    """The same with FSDP's sharded states, in a directory that is called as the Trainer's."""
    yield from distcp(disk, f"{CHECKPOINT}/pytorch_model_fsdp_0", 3)
    yield from distcp(disk, f"{CHECKPOINT}/optimizer_0", 3)
    yield from torch_save(disk, f"{CHECKPOINT}/scheduler.bin")
    for rank in (2, 0):
        disk.write(f"{CHECKPOINT}/random_states_{rank}.pkl", archive())
        yield Step(f"random_states_{rank}.pkl")
    disk.write(f"{CHECKPOINT}/random_states_1.pkl", archive())
    yield Done("random_states_1.pkl")


def accelerate_deepspeed(disk: Disk) -> Steps:
    """The same with DeepSpeed, whose tag is pytorch_model."""
    unit = "checkpoint_3"
    for rank in range(2):
        yield from torch_save(disk, f"{unit}/pytorch_model/zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        yield from torch_save(disk, f"{unit}/pytorch_model/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    yield from plain(disk, f"{unit}/latest", "pytorch_model")
    yield from torch_save(disk, f"{unit}/scheduler.bin")
    disk.write(f"{unit}/random_states_0.pkl", archive())
    yield Step("random_states_0.pkl")
    disk.write(f"{unit}/random_states_1.pkl", archive())
    yield Done("random_states_1.pkl")


# --- diffusers, LeRobot


def diffusers(disk: Disk) -> Steps:
    """DiffusionPipeline.save_pretrained: the components, then model_index.json."""
    for component in ("vae", "text_encoder", "unet"):
        yield from plain(disk, f"pipeline/{component}/config.json", {"a": 1})
        yield from safetensors(disk, f"pipeline/{component}/diffusion_pytorch_model.safetensors")
    yield from plain(disk, "pipeline/tokenizer/vocab.json", {"a": 1})
    yield from plain(disk, "pipeline/scheduler/scheduler_config.json", {"a": 1})
    names = ("vae", "text_encoder", "unet", "tokenizer", "scheduler")
    index = {"_class_name": "P", **{name: ["diffusers", "C"] for name in names}, "safety_checker": [None, None]}
    yield from plain(disk, "pipeline/model_index.json", index, Done)


def _lerobot(disk: Disk, unknown: type[Step]) -> Steps:
    unit = "checkpoints/005000"
    yield from plain(disk, f"{unit}/pretrained_model/config.json", {"type": "act"})
    yield from safetensors(disk, f"{unit}/pretrained_model/model.safetensors")
    yield from plain(disk, f"{unit}/pretrained_model/train_config.json", {"steps": 5})
    yield from plain(disk, f"{unit}/training_state/training_step.json", {"step": 5000})
    yield from safetensors(disk, f"{unit}/training_state/rng_state.safetensors")
    yield from safetensors(disk, f"{unit}/training_state/optimizer_state.safetensors")
    yield from plain(disk, f"{unit}/training_state/optimizer_param_groups.json", {"lr": 1}, unknown)
    disk.write(f"{unit}/training_state/scheduler_state.json", {"last_epoch": 5})
    yield unknown("scheduler_state.json")
    disk.link("checkpoints/last", "005000")
    yield Done("last")


def lerobot(disk: Disk) -> Steps:
    """save_checkpoint and update_last_checkpoint, when there is an earlier checkpoint."""
    disk.link("checkpoints/last", "002500")
    yield Step("an earlier checkpoint")
    yield from _lerobot(disk, Step)


def lerobot_first(disk: Disk) -> Steps:
    """The same without one: no link says that one is awaited, and a scheduler's state is optional."""
    yield from _lerobot(disk, Early)
