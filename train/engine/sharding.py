"""Data parallel training: every process holds the model (DDP), or its share of it (FSDP2, for ViT-H and g).

Both average gradients over processes and give the same updates up to the order of sums. A checkpoint holds whole
tensors whatever wrote it, so a run may go on with the other one, or on another number of processes.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from schemas.errors import UserError
from train.engine.distributed import Ranks

BLOCK = re.compile(r"\bblocks\.\d+$")  # a transformer block, of an encoder or a decoder


def parallel(module: nn.Module, ranks: Ranks, *, fsdp: bool) -> nn.Module:
    """What to call in place of `module`, over the processes of the run.

    fsdp shards parameters, gradients and optimiser state, a transformer block at a time; `module` itself then holds
    the shards, so the optimiser must be made after this. Errors: UserError for fsdp in a single process.
    """
    if fsdp:
        if ranks.world == 1:
            raise UserError("pretrain.fsdp shards the model over processes: set pretrain.processes to 2 or more")
        for block in [each for name, each in module.named_modules() if BLOCK.search(name)]:
            fully_shard(block)
        fully_shard(module)
        return module
    if ranks.world == 1:
        return module
    ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    # Buffers need no broadcast: the batch norm's statistics are global, hence equal everywhere.
    known = signature(DistributedDataParallel).parameters
    quiet: dict[str, Any] = {  # renamed in torch 2.15
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True, **quiet)


def accumulating(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """The context of a micro-batch: only after the last one of an update are gradients exchanged."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered where it is sharded: then all processes must call it, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """This process's share of a whole tensor, laid out as `reference` is; the tensor itself where that is whole."""
    if not isinstance(reference, DTensor):
        return tensor
    return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """state_dict of whole tensors on the CPU. Called by all processes where the module is sharded."""
    return {name: whole(tensor).detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def load_whole(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a full state dict into a module that may be sharded; keys that do not match raise."""
    present = module.state_dict()
    laid_out = {
        name: sharded_like(tensor, present[name]) if name in present else tensor for name, tensor in state.items()
    }
    module.load_state_dict(laid_out)


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients together, a scalar, the same in all processes."""
    return whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
