"""A method with its optimizers: one step at a time, saved and restored to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from semiseg.data.batch import Batch
from semiseg.data.bridging import bridged
from semiseg.group import ALONE, Group
from semiseg.learning.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_optimizers,
)
from semiseg.learning.start import Start
from semiseg.methods.base import Method, MethodSettings, build_method
from semiseg.methods.frame import Frame

_CLIP = 1.0
_WARM_UP_STEPS = 20
_MEAN_DECAY = 0.98


class Learner:
    """Weights, optimizers, mixed precision and the running mean of the weights.

    On a GPU the forward pass runs in bfloat16, or in float16 with scaled gradients where bfloat16
    is missing; on a CPU in float32. The mean (decay 0.98 once warm) is what is kept in the end.
    """

    def __init__(
        self,
        name: str,
        settings: MethodSettings,
        device: torch.device,
        *,
        seed: int,
        start: Start | None = None,
        group: Group = ALONE,
    ) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.step = 0
        self._group = group
        self.method: Method = build_method(name, settings)
        if start is not None:
            start.fill(self.method.modules)
        self.device = device
        self._amp = _half_precision(device)
        self._start(device)

    def _start(self, device: torch.device) -> None:
        self.device = device
        self.method.modules.to(device).train()
        self.method.memory.to(device)
        self.optimizers = self.method.optimizers()
        self._rates = {
            name: [float(group["lr"]) for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        state = self.method.modules.state_dict()
        self.mean = {name: tensor.detach().clone() for name, tensor in state.items()}
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._amp is torch.float16)

    def learn(self, batch: Batch, progress: float) -> Tensor:
        """One step on `batch`; the sum of the losses, still on the device."""
        # A method may draw random numbers; after a resume it has to draw the same.
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        self._set_rates(progress)
        if self.method.settings.bridging and not self.method.bridges:
            batch = replace(batch, image=bridged(batch.image))
        with self._precision():
            losses = self.method.losses(batch, progress)
        self._descend(losses)
        self.method.after_step(progress)
        self.step += 1
        self._average()
        return torch.stack([loss.detach() for loss in losses.values()]).sum()

    def _descend(self, losses: dict[str, Tensor]) -> None:
        """Each optimizer follows its own loss; a shared graph lives until the last."""
        names = list(losses)
        for name in names:
            parameters = _parameters(self.optimizers[name])
            found = torch.autograd.grad(
                self._scaler.scale(losses[name]),
                parameters,
                retain_graph=name != names[-1],
                allow_unused=True,
            )
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
        self._share_gradients()
        for name in names:
            optimizer = self.optimizers[name]
            self._scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(_parameters(optimizer), _CLIP)
            self._scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self._scaler.update()

    def _share_gradients(self) -> None:
        """Mean gradients over the group; a parameter that one process did not use has 0 there."""
        if self._group.size == 1:
            return
        parameters = [p for optimizer in self.optimizers.values() for p in _parameters(optimizer)]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._group.average([p.grad for p in parameters if p.grad is not None])

    def _set_rates(self, progress: float) -> None:
        factor = self.method.learning_rate_factor(progress)
        factor *= min(1.0, (self.step + 1) / _WARM_UP_STEPS)
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self._rates[name], strict=True):
                group["lr"] = rate * factor

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(_MEAN_DECAY, 1 - 1 / self.step)
        for name, tensor in self.method.modules.state_dict().items():
            mean = self.mean[name]
            if mean.is_floating_point():
                mean.lerp_(tensor, 1 - decay)
            else:
                mean.copy_(tensor)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Method]:
        """The method with the mean of its weights, ready to predict; put back afterwards."""
        modules = self.method.modules
        own = {name: tensor.detach().clone() for name, tensor in modules.state_dict().items()}
        modules.load_state_dict(self.mean)
        modules.eval()
        try:
            with torch.no_grad(), self._precision():
                yield self.method
        finally:
            modules.load_state_dict(own)
            modules.train()

    def hold(self, frame: Frame, atlases: Batch) -> None:
        """What the method keeps of the study to predict from; instead of what it kept before."""
        self.method.hold(frame, atlases)
        self.method.modules.to(self.device)
        for name, buffer in self.method.modules.named_buffers():
            self.mean[name] = buffer.detach().clone()

    def move(self, device: torch.device) -> None:
        """Go on with the same weights on another device; the optimizers start anew."""
        mean = self.mean
        self._amp = _half_precision(device)
        self._start(device)
        self.mean = {name: tensor.to(device) for name, tensor in mean.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that `restore` needs but the step."""
        memory = self.method.memory.state_dict()
        return {
            **module_tensors(self.method.modules),
            **{f"memory/{name}": tensor for name, tensor in memory.items()},
            **{f"mean/{name}": tensor for name, tensor in self.mean.items()},
            **optimizer_tensors(self.optimizers),
        }

    def restore(self, checkpoint: Checkpoint, step: int) -> None:
        """Go on from what `tensors` gave at `step`."""
        self.method.modules.load_state_dict(checkpoint.part("modules"))
        self.method.memory.load_state_dict(checkpoint.part("memory"))
        self.mean = {k: v.to(self.device) for k, v in checkpoint.part("mean").items()}
        restore_optimizers(self.optimizers, checkpoint)
        self.step = step

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self._amp is None:
            return contextlib.nullcontext()
        return torch.autocast("cuda", self._amp)


def _half_precision(device: torch.device) -> torch.dtype | None:
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
