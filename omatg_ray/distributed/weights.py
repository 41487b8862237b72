"""Weights of the policy in the object store, where rollout actors fetch them, version by version."""

from __future__ import annotations

from collections.abc import Mapping

import ray
from torch import Tensor

from omatg_ray.distributed.failures import ObjectHandle
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.rl.backend import copy_weights


class PublishedWeights:
    """The versions of the weights that rollouts may still need.

    Args:
        model: This process's copy of the sampler, which holds the current version.
        staleness: Number of versions before the current one that may still be needed.
    """

    def __init__(self, model: FlowModel, staleness: int) -> None:
        self._model, self._staleness = model, staleness
        self._copies: dict[int, dict[str, Tensor]] = {}
        self._handles: dict[int, ObjectHandle] = {}
        self.publish(0)

    def __getitem__(self, version: int) -> ObjectHandle:
        return self._handles[version]

    def publish(self, version: int, handle: ObjectHandle | None = None) -> None:
        """Make the current weights available as this version; drop versions that are no longer needed.

        Args:
            version: Number of iterations done.
            handle: The weights, if they are in the object store already.
        """
        if self._staleness:
            self._copies[version] = copy_weights(self._model.learned)
        if handle is None:
            self._put(version)
        else:
            self._handles[version] = handle
        for kept in (self._copies, self._handles):
            for old in [one for one in kept if one < version - self._staleness]:
                del kept[old]

    def publish_again(self, version: int, lost: ObjectHandle) -> None:
        """Replace an object that was lost with its node, unless that has happened already."""
        if self._handles[version] is lost:
            self._put(version)

    @property
    def older(self) -> dict[int, dict[str, Tensor]]:
        """Versions before the current one, on the CPU."""
        return {version: weights for version, weights in self._copies.items() if version < max(self._handles)}

    def restore(self, older: Mapping[int, dict[str, Tensor]], version: int) -> None:
        """Publish the current weights as this version, and older versions beside them."""
        self._handles.clear()
        self._copies = dict(older)
        for one in older:
            self._put(one)
        self.publish(version)

    def _put(self, version: int) -> None:
        weights = self._copies[version] if version in self._copies else self._model.learned.state_dict()
        self._handles[version] = ObjectHandle(ray.put(weights))
