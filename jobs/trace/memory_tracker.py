"""What of a step's memory is what: torch's MemTracker, which knows FSDP2's shards as well as plain tensors.

torch's FSDPMemTracker is not used: in torch 2.13 it runs the hooks of modules that share a group of parameters
twice, as accelerate 1.15 makes one of the last norm and the output embedding.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType, _RefType
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from typing_extensions import override

from jobs.trace.collectives import CollectiveCounter, Message

c10d = torch.ops.c10d


class _Gathered(_RefType):
    WEIGHTS = "Gathered"


_PARTS: dict[_RefType, str] = {
    _MemRefType.PARAM: "parameters",
    _MemRefType.BUFFER: "other",
    _MemRefType.GRAD: "gradients",
    _MemRefType.ACT: "activations",
    _MemRefType.TEMP: "other",
    _MemRefType.OPT: "optimizer",
    _MemRefType.OTH: "other",
    _Gathered.WEIGHTS: "gathered",
}

Place = tuple[int, str, str]
"""A micro batch, `forward`, `backward` or `optimizer`, and the innermost module."""


class StepTracker(MemTracker):  # type: ignore[no-untyped-call]
    """Keeps the largest memory of each place of a training, by part.

    Args:
        model: As it is wrapped.
        optimizer: Its optimizer.
        collectives: Counts what is sent.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, collectives: CollectiveCounter) -> None:
        super().__init__()
        self._ref_class: Any = [*_MemRefType, *_Gathered]
        self._model, self._optimizer, self._collectives = model, optimizer, collectives
        self._micro_batch = -1
        self._modules: list[str] = []
        self._begun = ""
        self.peaks: dict[Place, dict[str, int]] = {}
        self.sent: list[tuple[Mapping[Message, int], Mapping[Message, int]]] = []
        """Counts and bytes of each micro batch; the step after it belongs to it."""
        self.track_external(model)

    def begin_micro_batch(self, inputs: Mapping[str, Tensor]) -> None:
        """Note that the next micro batch begins."""
        self.end_micro_batch()
        self._micro_batch += 1
        for tensor in inputs.values():
            self._is(tensor, _MemRefType.OTH)
        if self._micro_batch == 1:  # FSDP2 has made what it gathers into
            self._watch_gathered()

    def end_micro_batch(self) -> None:
        """Note that what was sent since the last call belongs to the micro batch."""
        sent = self._collectives.take()
        if self._micro_batch >= 0:
            self.sent.append(sent)
        for parameter in self._model.parameters():
            self._is(parameter.grad, _MemRefType.GRAD)

    def note_gradient(self, tensor: Tensor) -> None:
        """Note that a tensor holds gradients."""
        self._is(tensor, _MemRefType.GRAD)

    def _watch_gathered(self) -> None:
        for one in _fsdp_parameters(self._model):
            for output in (*one.all_gather_outputs, one._unsharded_param):
                self._is(output, _Gathered.WEIGHTS)
            self._watch(one._unsharded_param)
        if not isinstance(self._model, FSDPModule):
            for parameter in self._model.parameters():
                self._watch(parameter)

    def _watch(self, parameter: Tensor) -> None:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda given: self._is(given.grad, _MemRefType.GRAD))  # type: ignore[no-untyped-call]

    def _is(self, tensor: Tensor | None, kind: _RefType) -> None:
        if tensor is not None:
            self._update_and_maybe_create_winfos(tensor, kind)

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        if result is not NotImplemented:
            self._collectives.note(func, args, kwargs or {}, result)
        if func is c10d._allgather_base_.default:
            self._is(args[0], _Gathered.WEIGHTS)
        elif func is c10d._reduce_scatter_base_.default:
            self._is(args[0], _MemRefType.GRAD)
            self._is(args[1], _MemRefType.GRAD)
        return result

    # What MemTracker does with each module is left out: it takes one step only. And its ModTracker takes modules that
    # are called with keywords for active until the backward pass ends. What is allocated while a module computes is an
    # activation, in the backward pass, too, if it is recomputed.
    @override
    def _pre_fw_hook(self, module: nn.Module, inputs: Any) -> None:
        self._begun = self._mod_tracker.get_known_fqn(module) or ""  # type: ignore[no-untyped-call]
        self._modules.append(self._begun)
        self._in_ac = self._mod_tracker.is_bw

    @override
    def _post_fw_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._modules.pop()
        self._in_ac = self._in_ac and bool(self._modules)

    @override
    def _pre_bw_hook(self, module: nn.Module | None, args: Any) -> None:
        if module is not None:  # it was made for the forward pass alone
            self._begun = self._mod_tracker.get_known_fqn(module) or ""  # type: ignore[no-untyped-call]

    @override
    def _post_bw_hook(self, module: nn.Module, args: Any) -> None:
        pass

    @override
    def _update_peak_stats(self, peak_state: Any) -> None:
        if self._mod_tracker.is_bw:
            phase, module = "backward", self._begun
        else:
            phase, module = (
                ("optimizer", "") if self._in_opt else ("forward", self._modules[-1] if self._modules else "")
            )
        place = (self._micro_batch, phase, module)
        for now in self._curr_mem_snap.values():
            if place not in self.peaks or sum(self.peaks[place].values()) < now["Total"]:
                self.peaks[place] = _by_part(now)


def _by_part(snapshot: Mapping[Any, int]) -> dict[str, int]:
    parts = dict.fromkeys(_PARTS.values(), 0)
    for kind, part in _PARTS.items():
        parts[part] += snapshot.get(kind, 0)
    return parts


def _fsdp_parameters(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            group = module._get_fsdp_state()._fsdp_param_group
            yield from group.fsdp_params if group else ()
