"""Compiled models, and models on several processes; each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COMPILED = """
import copy, torch, warnings
import invertible as inv
from tests.memory.networks import convnet, mlp, residual_chain

torch.manual_seed(0)
flow = inv.Chain(inv.AffineCoupling(6), inv.InvertibleLinear(6), inv.SplineCoupling(6), inv.AdditiveCoupling(6))
for net, x in ((residual_chain(3, lambda: convnet(2)), torch.randn(3, 4, 6, 6)), (flow, torch.randn(5, 6))):
    net = net.double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for memory in ("reversible", "checkpoint", "exact"):
        if memory == "exact" and net is flow:
            continue
        found = []
        for compiled in (False, True):
            chain = copy.deepcopy(net)
            chain.memory = memory
            run = torch.compile(chain, backend="aot_eager") if compiled else chain
            for _ in range(2):
                chain.zero_grad()
                y, log_det = run(x.double())
                (y.square().sum() + log_det.sum()).backward()
            found.append([p.grad for p in chain.parameters()])
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found)), memory

net = residual_chain(3, lambda: mlp(3), memory="reversible").double()
expected = copy.deepcopy(net)
for block in net:
    block.f, block.g = torch.compile(block.f, backend="aot_eager"), torch.compile(block.g, backend="aot_eager")
x = torch.randn(5, 6, dtype=torch.float64)
for chain in (net, expected):
    chain(x)[0].square().sum().backward()
assert all(torch.allclose(a.grad, b.grad, rtol=1e-10) for a, b in zip(net.parameters(), expected.parameters()))
assert net.memory_log.alarms == 0
"""

DISTRIBUTED = """
import copy, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from tests.memory.networks import convnet, residual_chain

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
for memory in ("reversible", "checkpoint", "exact"):
    for options in ({}, {"find_unused_parameters": True}, {"static_graph": True}):
        torch.manual_seed(0)
        net = residual_chain(3, lambda: convnet(2), memory=memory).double()
        single = copy.deepcopy(net)
        x = torch.randn(4, 4, 6, 6, dtype=torch.float64)
        both = DDP(net, **options)
        for _ in range(2):
            both.zero_grad()
            y, log_det = both(x[2 * rank : 2 * rank + 2])
            y.square().mean().backward()
        single(x)[0].square().mean().backward()
        for a, b in zip(net.parameters(), single.parameters()):
            assert torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12), (memory, options)
    both.zero_grad()
    if not options.get("static_graph"):
        with both.no_sync():
            both(x[:2])[0].sum().backward()
dist.destroy_process_group()
"""

SHARDED = """
import copy, sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tests.memory.networks import mlp, residual_chain

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
net = residual_chain(3, lambda: mlp(4), memory="reversible").double()
single = copy.deepcopy(net)
single.memory = "store"
mesh = init_device_mesh("cpu", (2,))
for block in net:
    fully_shard(block.f, mesh=mesh)
    fully_shard(block.g, mesh=mesh)
fully_shard(net, mesh=mesh)
x = torch.randn(4, 8, dtype=torch.float64)
for _ in range(2):
    net.zero_grad()
    net(x[2 * rank : 2 * rank + 2])[0].square().mean().backward()
single(x)[0].square().mean().backward()
for a, b in zip(net.parameters(), single.parameters()):
    assert torch.allclose(a.grad.full_tensor(), b.grad, rtol=1e-9, atol=1e-12)
assert net.memory_log.alarms == 0
dist.destroy_process_group()
"""


def run(source: str, *arguments: str) -> subprocess.Popen:
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", source, *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def finish(*processes: subprocess.Popen) -> None:
    results = [process.communicate(timeout=240) for process in processes]
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors[-3000:]


def test_compiled_models_have_the_gradients_of_eager_ones() -> None:
    finish(run(COMPILED))


@pytest.mark.parametrize("source", [DISTRIBUTED, SHARDED], ids=["ddp", "fsdp"])
def test_two_processes_have_the_gradients_of_one(source: str, tmp_path: Path) -> None:
    finish(*[run(source, str(rank), str(tmp_path / "store")) for rank in range(2)])
