"""Several processes as tests start them."""

import os
import socket
import subprocess
import sys

import torch
import torch.multiprocessing as mp

from textgan.training.ranks import joined


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _work(rank, size, port, function, folder, args):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined(torch.device("cpu"), "go on") as ranks:
        torch.save(function(ranks, *args), folder / f"{rank}.pt")


def on_ranks(size, function, folder, *args):
    """What ``function(ranks, *args)`` returns on each of ``size`` processes."""
    folder.mkdir(exist_ok=True)
    mp.spawn(_work, (size, free_port(), function, folder, args), nprocs=size)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def torchrun(size, *args, **options):
    """``textgan args`` on ``size`` processes, started and not waited for."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}"]
    return subprocess.Popen(
        [*command, f"--master-port={free_port()}", "-m", "textgan", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def children(process):
    """Numbers of the processes that it started, in their order."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
        return [int(number) for number in file.read().split()]
