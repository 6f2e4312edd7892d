"""Several processes that train one network together, each on a GPU of its own (torchrun)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class Processes:
    """This process among ``count``. Each sees other examples; gradients are averaged."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def share(self, network: nn.Module) -> None:
        """Give all processes the first one's weights."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, 0)

    def average_gradients(self, network: nn.Module) -> None:
        """The mean of the gradients of all processes."""
        if self.count > 1:
            for parameter in network.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.count

    def any(self, here: bool) -> bool:
        """Whether it is so in any process: all stop at the same step."""
        if self.count == 1:
            return here
        flag = torch.tensor(float(here))
        if distributed.get_backend() == "nccl":
            flag = flag.cuda()
        distributed.all_reduce(flag)
        return bool(flag)


ALONE = Processes()


def device_of(environment: Mapping[str, str], device: str) -> str:
    """The device of this process: torchrun's local rank says which GPU is its own."""
    rank = environment.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and device.startswith("cuda") else device


def join(environment: Mapping[str, str], device: str) -> Processes:
    """Join the processes torchrun started, told by its variables; alone where there are none."""
    count = int(environment.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    on_gpu = torch.device(device).type == "cuda"
    backend = "nccl" if on_gpu else "gloo"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(backend)
    return Processes(int(environment["RANK"]), count)
