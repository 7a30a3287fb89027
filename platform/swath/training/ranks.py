"""What the workers of a run share: sums, votes and buffers over all ranks. One worker alone needs no process group."""

import torch
from torch import distributed

from swath.training.context import Context


def sum_over_ranks(context: Context, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, on the CPU. Every rank calls it."""
    if context.world_size > 1:
        values = values.to(context.device)
        distributed.all_reduce(values)
    return values.cpu()


def max_over_ranks(context: Context, value: int) -> int:
    """The largest of the ranks' numbers. Every rank calls it."""
    if context.world_size == 1:
        return value
    values = torch.tensor(value, device=context.device)
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return int(values)


def any_rank(context: Context, *flags: bool) -> list[bool]:
    """For each flag whether some rank raises it, so that all ranks do the same. Every rank calls it."""
    counts = sum_over_ranks(context, torch.tensor(flags, dtype=torch.float32))
    return [count > 0 for count in counts.tolist()]


def share_buffers(context: Context, net: torch.nn.Module) -> None:
    """Give every rank the buffers of rank 0, which are those that a checkpoint holds.

    Each rank's batch normalisation has seen its own patches since the last forward pass shared them; scored with
    these, ranks would score different networks.
    """
    if context.world_size > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, 0)
