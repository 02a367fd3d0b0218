# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""What a process of a training on two does: `DATA OUTPUT` runs both scripts and compares the weights of the processes
after each; `sharded FOLDER` trains a sharded model and, in the first process, the same model whole."""

import os
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from tiny_models import blocky_images, tiny_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training_runs import SCRIPTS, arguments, train

from algm_hf import AlgmForSemanticSegmentation
from algm_hf.training.optimizer import parameter_groups
from algm_hf.training.sharding import bare_model, whole_model


def run_scripts(data: Path, output: Path):
    destroy, dist.destroy_process_group = dist.destroy_process_group, lambda *group: None  # still needed here
    wrap = DistributedDataParallel.__init__
    for name in SCRIPTS:
        trained = []

        def noting(self, module, *args, trained=trained, **kwargs):
            trained.append(module)
            wrap(self, module, *args, **kwargs)

        with mock.patch.object(DistributedDataParallel, "__init__", noting):
            train(name, arguments(data, output / name, per_device_train_batch_size=1, max_steps=2))
        mine = torch.cat([parameter.detach().flatten() for parameter in trained[0].parameters()])
        every = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        assert len(every) == 2 and all(torch.equal(mine, other) for other in every)
    dist.barrier()
    destroy()
    sys.stdout.flush()
    os._exit(0)  # all is checked; gloo's threads sometimes abort a process that ends while its neighbour still runs


def steps(model, pixel_values, labels):
    groups = parameter_groups(model, model.config.num_hidden_layers, 0.1, 0.0, layer_decay=0.8)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(2):
        model(pixel_values=pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def run_sharded(folder: Path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    rank, mesh = dist.get_rank(), init_device_mesh("cpu", (dist.get_world_size(),))
    pixel_values = blocky_images(4, 64, 64)
    labels = torch.randint(0, 5, (4, 64, 64), generator=torch.Generator().manual_seed(0))
    model: nn.Module = tiny_model(decoder_dropout_prob=0.0).train()
    for layer in (*model.algm.layers, *model.decode_head.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    steps(model, pixel_values[2 * rank : 2 * rank + 2], labels[2 * rank : 2 * rank + 2])
    copy = whole_model(model)
    assert type(copy) is AlgmForSemanticSegmentation and not copy.training
    if rank == 0:
        bare_model(model.config).save_pretrained(folder / "sharded", state_dict=copy.state_dict())
        whole = tiny_model(decoder_dropout_prob=0.0).train()
        steps(whole, pixel_values, labels)
        torch.save(whole.state_dict(), folder / "whole.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "sharded":
        run_sharded(Path(sys.argv[2]))
    else:
        run_scripts(Path(sys.argv[1]), Path(sys.argv[2]))
