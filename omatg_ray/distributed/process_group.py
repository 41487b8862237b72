"""Several learners as one: their shares of an iteration, and their communication.

Every learner has the same weights and optimizer. An update gives each a share of the counted structures; gradients and
statistics are summed over the learners, and all take the same step. Sums of gradients go over NCCL if every learner has
a GPU of its own, otherwise over gloo, which also carries everything else.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch import Tensor

from omatg_ray.errors import ClusterError

SECONDS_TO_ANSWER = 600.0
"""How long a learner waits for the others: longer than it takes one to repeat an epoch with smaller microbatches."""
LOOPBACK = "127.0.0.1"


class LearnersLostError(ClusterError):
    """A learner cannot continue because another one is gone or does not answer; the original error is elsewhere."""


def reason_of(errors: Sequence[Exception]) -> Exception:
    """Return the first error that is more than the report of having lost another learner; else the first of all."""
    return next((error for error in errors if not isinstance(error, LearnersLostError)), errors[0])


# --- shares -------------------------------------------------------------------------------------------------------


def plan_shares(
    trajectory_sizes: Sequence[Sequence[int]], counted: Tensor, n: int
) -> list[tuple[list[int], Tensor, Tensor]]:
    """Share the structures of an iteration among learners.

    A share is a run of consecutive structures, so that a learner needs few items. Its number of ordered pairs of atoms,
    on which time and memory depend, differs from that of an even share by at most that of the largest structure. A
    share may be empty.

    Args:
        trajectory_sizes: Atoms of every structure, item by item.
        counted: Ascending indices (b,) of the structures to learn from, over all items.
        n: Number of learners.

    Returns:
        For every learner: the items that it needs, in order; the structures that it learns from (b,), as indices into
        those of these items, one after the other; and the positions (b,) of these structures in `counted`.
    """
    starts = list(accumulate((len(sizes) for sizes in trajectory_sizes), initial=0))
    structures = counted.tolist()
    item_of = [item for item, sizes in enumerate(trajectory_sizes) for _ in sizes]
    atoms = [size for sizes in trajectory_sizes for size in sizes]
    ends = list(accumulate((atoms[index] ** 2 for index in structures), initial=0))
    members: list[list[int]] = [[] for _ in range(n)]
    for position, (start, end) in enumerate(pairwise(ends)):
        # The learner whose even share of the pairs contains the middle of the structure's pairs.
        members[(start + end) * n // (2 * ends[-1])].append(position)
    shares = []
    for positions in members:
        items = sorted({item_of[structures[position]] for position in positions})
        shifts = dict(zip(items, accumulate((len(trajectory_sizes[item]) for item in items), initial=0), strict=False))
        own = [structures[position] for position in positions]
        local = [index - starts[item_of[index]] + shifts[item_of[index]] for index in own]
        shares.append((items, torch.tensor(local, dtype=torch.long), torch.tensor(positions, dtype=torch.long)))
    return shares


# --- communication ------------------------------------------------------------------------------------------------


def open_rendezvous(host: str, seconds: float = SECONDS_TO_ANSWER) -> tuple[dist.TCPStore, str]:
    """Open a meeting point of learners: a store that one of them serves, on a port that is reserved from the start.

    Args:
        host: Address of this learner's node that the others reach; it listens on no other.
        seconds: How long it waits for another learner's entry.

    Returns:
        The store, and its address, HOST:PORT.
    """
    listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    port = listener.getsockname()[1]
    # The store closes the socket when it ends.
    return _store(host, port, seconds, listener.detach()), f"{host}:{port}"


class TorchProcessGroup:
    """The learners of a set as seen by one of them; the `ProcessGroup` of its `Learner`.

    Args:
        address: Address of the rendezvous, HOST:PORT.
        rank: Rank of this learner, from 0.
        size: Number of learners.
        host: Address of this learner's node that the others reach; it listens on no other.
        nccl: Whether to sum over NCCL; values must then be on a GPU that no other learner has.
        served: Store of the rendezvous, if this learner serves it.
        seconds: How long to wait for the others, at any one time.

    Raises:
        LearnersLostError: The others did not come in time.
    """

    def __init__(
        self,
        address: str,
        rank: int,
        size: int,
        host: str,
        nccl: bool = False,
        served: dist.TCPStore | None = None,
        seconds: float = SECONDS_TO_ANSWER,
    ) -> None:
        self.rank, self.size, self._served = rank, size, served
        try:
            server, _, port = address.rpartition(":")
            store = _store(server, int(port), seconds) if served is None else served
            self._gloo: Any = _gloo(dist.PrefixStore("gloo", store), rank, size, host, seconds)
            self._nccl: Any = _nccl(dist.PrefixStore("nccl", store), rank, size, seconds) if nccl else None
        except RuntimeError as error:
            raise self._lost_error(error) from error

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Exchange messages: send one, and return those of all learners in the order of their ranks.

        Raises:
            LearnersLostError: A learner is gone or does not answer.
        """
        own = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        lengths = [int(length) for length in self._gather(torch.tensor([len(own)]))]
        padded = own.new_zeros(max(lengths))
        padded[: len(own)] = own
        messages = zip(self._gather(padded), lengths, strict=True)
        return [json.loads(bytes(values[:length].tolist())) for values, length in messages]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the learners, with the same bits on all of them.

        Raises:
            LearnersLostError: A learner is gone or does not answer.
        """
        over_nccl = self._nccl is not None
        total = values.clone() if over_nccl else values.to("cpu", copy=True)
        self._wait(lambda: (self._nccl if over_nccl else self._gloo).allreduce([total]))
        return total.to(values.device)

    def close(self) -> None:
        """Leave the others, which notice at once; the group cannot be used afterwards."""
        for group in (self._nccl, self._gloo):
            if group is not None:
                group.abort()
        self._nccl = self._gloo = None

    def _gather(self, values: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        self._wait(lambda: self._gloo.allgather([gathered], [values]))
        return gathered

    def _wait(self, begin: Callable[[], Any]) -> None:
        """Begin a collective operation and wait for its end."""
        if self._gloo is None:
            # An aborted group of PyTorch would silently give wrong numbers.
            raise LearnersLostError(f"learner {self.rank} of {self.size} has left the others")
        try:
            begin().wait()
        except RuntimeError as error:
            raise self._lost_error(error) from error

    def _lost_error(self, error: RuntimeError) -> LearnersLostError:
        # Without the location in PyTorch's sources, and without its advice.
        reason = str(error).partition("\n")[0].split("] ", 1)[-1].split(". ")[0]
        return LearnersLostError(f"learner {self.rank} of {self.size} lost another one: {reason}")


def rendezvous_host() -> str:
    """Return the address at which learners reach this node: loopback in a cluster of one machine."""
    machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    return LOOPBACK if len(machines) == 1 else ray.util.get_node_ip_address()


def _store(host: str, port: int, seconds: float, listener: int | None = None) -> dist.TCPStore:
    return dist.TCPStore(
        host,
        port,
        is_master=listener is not None,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        master_listen_fd=listener,
    )


def _gloo(store: dist.Store, rank: int, size: int, host: str, seconds: float) -> Any:
    # Through its class, because init_process_group listens wherever the machine's name leads: possibly on another
    # interface than Ray's, or on loopback while the others are on other nodes.
    cls: Any = dist.ProcessGroupGloo
    options = cls._Options()
    options._devices = [cls.create_device(hostname=host)]
    options._timeout = timedelta(seconds=seconds)
    return cls(store, rank, size, options)


def _nccl(store: dist.Store, rank: int, size: int, seconds: float) -> Any:
    from torch.distributed import ProcessGroupNCCL

    options: Any = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=seconds)
    return ProcessGroupNCCL(store, rank, size, options)
