"""One training in several processes: which rows each takes, and what cannot be split at all.

Launched by `torchrun` or `accelerate launch`, each process holds the whole frozen model, or its
share of it (`models.sharding`), and takes its share of the rows of each step; transformers'
Trainer adds up their gradients. The steps are those of one process, whatever the number of rows.
"""

from collections.abc import Iterable, Iterator

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.distributed.tensor import DTensor
from torch.utils.data import RandomSampler, Sampler
from transformer_lens.model_bridge import TransformerBridge
from transformers import TrainingArguments

from reft_interp.models.devices import device_of
from reft_interp.models.sharding import launched_processes, sharded_parameters
from reft_interp.models.spreading import is_spread
from reft_interp.training.collating import NO_ROW, RowsDataset


class EvenSampler(Sampler):
    """The order of rows, filled up with places that hold no row until all processes get as many.

    accelerate would fill up with rows from the beginning, which would then count twice.

    Args:
        order: row numbers, in the same order in all processes.
        multiple: rows of a step, over all processes.
    """

    def __init__(self, order: Sampler, multiple: int):
        self._order = order
        self._missing = -len(order) % multiple  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from [NO_ROW] * self._missing

    def __len__(self) -> int:
        return len(self._order) + self._missing  # pyright: ignore[reportArgumentType]

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the order, if it is another one in each epoch."""
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]


def even_sampler(
    order: Sampler | None, rows: RowsDataset, args: TrainingArguments, batch_size: int
) -> Sampler | None:
    """The order as it is in one process; in several, filled up for all of them."""
    if args.world_size == 1 or order is None or args.dataloader_drop_last:
        return order
    if isinstance(order, RandomSampler):
        # What accelerate makes of it in one process.
        order = SeedableRandomSampler(rows, data_seed=args.data_seed)
    return EvenSampler(order, batch_size * args.world_size)


def share_of(batch_size: int, processes: int) -> int:
    """Rows of a step in each process.

    Raises:
        ValueError: the processes cannot have as many each.
    """
    if batch_size % processes:
        raise ValueError(
            f"batch_size is the rows of a step over all processes, and must be a multiple of "
            f"their number, {processes}, got {batch_size}"
        )
    return int(batch_size) // processes  # of NumPy too, which no checkpoint could hold


def check_alone(what: str, instead: str) -> None:
    """Raise where processes were launched together for what one does by itself.

    Args:
        what: does not share its steps.
        instead: what to do.

    Raises:
        ValueError: there are several.
    """
    if (count := launched_processes()) > 1:
        raise ValueError(
            f"{what} runs in one process, and torchrun or `accelerate launch` started {count} "
            f"together (WORLD_SIZE): {instead}"
        )


def check_devices(model: TransformerBridge) -> str:
    """The device that a model is on, or this process' share of it; of one that is spread over
    several, the first, where interventions are trained.

    Raises:
        ValueError: weights on several devices that nothing moves between, or cut into pieces by
            others than `load_model`.
    """
    weights, shared = list(model.parameters()), sharded_parameters(model)
    if any(isinstance(weight, DTensor) and weight not in shared for weight in weights):
        raise ValueError(_cut_up("a model sharded by tp_plan or distributed_config"))
    devices = _names(weight.device for weight in weights)
    if len(devices) > 1 and not is_spread(model):
        raise ValueError(
            f"the model's weights are on {', '.join(devices)}, and nothing moves what one layer "
            "hands to the next: load it with load_model(..., device_map=...), or on one device"
        )
    return _names([device_of(model)])[0]


def check_processes(model: TransformerBridge, args: TrainingArguments) -> None:
    """Raise where the model or the launch is of a kind that interventions cannot train in.

    Raises:
        ValueError: weights that `check_devices` refuses; FSDP or DeepSpeed; a model that is on
            another device than the one that this process trains on, or spread over several while
            other processes train, too.
    """
    if args.fsdp or args.deepspeed:
        raise ValueError(_cut_up("fsdp" if args.fsdp else "deepspeed"))
    if args.world_size > 1 and is_spread(model):
        raise ValueError(
            f"the model is spread over several devices (device_map), and {args.world_size} "
            "processes train on it: launch one, or load with sharded=True"
        )
    device, trained_on = check_devices(model), _names([args.device])[0]
    if device != trained_on:
        raise ValueError(
            f"the model is on {device}, but this process trains on {trained_on}: load it "
            f"with device={trained_on!r}, or choose the device by CUDA_VISIBLE_DEVICES"
        )


def _names(devices: Iterable[torch.device]) -> list[str]:
    names = set()
    for device in devices:
        if device.type == "cuda":  # without an index it is the present one of them
            index = torch.cuda.current_device() if device.index is None else device.index
            names.add(f"cuda:{index}")
        else:
            names.add(device.type)  # accelerate numbers CPUs, of which there is one
    return sorted(names)


def _cut_up(asked: str) -> str:
    return (
        f"{asked}: the base model is frozen, so there are no gradients or optimiser states of it "
        "to cut up, and the interventions are small. Launch with torchrun or `accelerate launch "
        "--multi_gpu`, which train them on several devices as they are; where no device can hold "
        "the base model, load it with load_model(..., sharded=True), which cuts up its blocks"
    )
