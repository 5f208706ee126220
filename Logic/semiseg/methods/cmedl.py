"""CMEDL: concurrent translation and distillation between unpaired CT and MR (Jiang et al., 2022).

IEEE TMI 2022. The structure is published; weights that could not be read are those of the same
group's earlier code (PSIGAN). The contextual loss on a pretrained VGG19 gives way to a difference
of edges, which needs no downloaded weights, and there is no pool of earlier translated images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.block_kinds import BLOCKS, segmentation_network
from semiseg.config import MODALITIES, Modality
from semiseg.data.batch import Batch
from semiseg.losses import supervised_loss
from semiseg.methods.base import Method, MethodSettings
from semiseg.networks import UNet
from semiseg.translation import OTHER, Translated, Translation

SEGMENTATION_WEIGHT = 5.0
HINT_WEIGHT = 1.0
HINT_LEVELS = 2
TRANSLATION_RATE = 1 / 3
BETAS = (0.5, 0.999)
Rows = Mapping[Modality, Tensor]


class ConcurrentDistillation(Method):
    """A teacher for one modality and a student for the other, joined by translation.

    Teacher: learns from its own labelled images, and from those of the student translated into
    its modality, with their labels. Student: learns from its own labelled images, from
    translated ones of the teacher where its modality has no labels, and from the hint: its last
    features of an image should be those of the teacher of the translated image. `concurrent`:
    the hint moves the teacher, too. Each modality is segmented by its own network alone.

    The teacher is of the modality with more labelled scans, MR where both have as many. Both
    networks begin with the same weights, so that channels mean the same. Segmenting does not move
    the generators.
    """

    uses_unlabelled = True
    uses_modalities = True
    uses_plain = True
    needs_both = True
    options: Mapping[str, tuple[str, ...]] = {
        "segmentation": BLOCKS,
        "translation": ("residual", "variational"),
        "teacher": ("auto", *MODALITIES),
        "concurrent": ("on", "off"),
    }

    def __init__(self, settings: MethodSettings) -> None:
        super().__init__(settings)
        network = segmentation_network(settings.network, self.option("segmentation"))
        other = copy.deepcopy(network)
        self.networks: Mapping[Modality, UNet] = {"CT": network, "MR": other}
        variational = self.option("translation") == "variational"
        self.translation = Translation(settings.network, variational=variational)
        self.modules = nn.ModuleDict({"CT": network, "MR": other, "translation": self.translation})
        self.teacher = teacher_of(self.option("teacher"), settings.labelled)
        self.student = OTHER[self.teacher]
        self._borrows = not settings.labelled.get(self.student)

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW for both networks; Adam with the published momentum for the translation."""
        rate = self.settings.learning_rate
        both = [p for network in self.networks.values() for p in network.parameters()]
        slow = rate * TRANSLATION_RATE
        parts = {"generators": self.translation.generators}
        parts["discriminators"] = self.translation.discriminators
        return {
            "networks": torch.optim.AdamW(both, lr=rate, weight_decay=1e-4),
            **{
                name: torch.optim.Adam(part.parameters(), lr=slow, betas=BETAS)
                for name, part in parts.items()
            },
        }

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """5 L_seg + L_hint; the generators' five terms; the discriminators' errors."""
        rows = rows_of(batch)
        plain = batch.image if batch.plain is None else batch.plain
        translated = self.translation({m: plain[rows[m]] for m in MODALITIES})
        terms = self.network_terms(batch, rows, translated)
        segmentation = terms["teacher"] + terms["student"]
        return {
            "networks": SEGMENTATION_WEIGHT * segmentation + HINT_WEIGHT * terms["hint"],
            "generators": self.translation.generator_loss(translated),
            "discriminators": self.translation.discriminator_loss(translated),
        }

    def network_terms(self, batch: Batch, rows: Rows, translated: Translated) -> dict[str, Tensor]:
        """L_seg of "teacher" and "student", and the "hint"."""
        taught, learned = rows[self.teacher], rows[self.student]
        own, others = taught[taught < batch.n_labelled], learned[learned < batch.n_labelled]
        made = translated.made[self.teacher].detach()
        teacher = _Seen.of(self.networks[self.teacher], torch.cat([batch.image[own], made]))
        borrowed = own if self._borrows or not len(learned) else own[:0]
        given = translated.made[self.student].detach()[: len(borrowed)]
        image = torch.cat([batch.image[learned], given])
        student = _Seen.of(self.networks[self.student], image)
        n, lent = len(own) + len(others), slice(len(learned), None)
        logits = torch.cat([student.logits[: len(others)], student.logits[lent]])
        return {
            "teacher": _supervised(teacher.logits[:n], batch, torch.cat([own, others])),
            "student": _supervised(logits, batch, torch.cat([others, borrowed])),
            "hint": self._hint(student, len(learned), teacher, len(own)),
        }

    def _hint(self, student: _Seen, n: int, teacher: _Seen, skip: int) -> Tensor:
        """Over the first `n` of the student's images, which the teacher saw after `skip` others."""
        wanted = [level[skip:] for level in teacher.levels]
        if self.option("concurrent") == "off":
            wanted = [level.detach() for level in wanted]
        return hint([level[:n] for level in student.levels], wanted)

    def predict(self, image: Tensor) -> Tensor:
        """Logits of CT's network: the student of the publication."""
        return self.predictor("CT")(image)

    def predictor(self, modality: Modality) -> Callable[[Tensor], Tensor]:
        """The network of `modality`; nothing is translated."""
        return self.networks[modality]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a network makes of images: features of its last levels, and logits."""

    levels: list[Tensor]
    logits: Tensor

    @classmethod
    def of(cls, network: UNet, image: Tensor) -> _Seen:
        levels = network.pyramid(image)
        return cls(levels=levels[:HINT_LEVELS], logits=network.logits(levels[0]).float())


def teacher_of(wanted: str, labelled: Mapping[Modality, int]) -> Modality:
    """The modality asked for, else the one with more labelled scans, else MR."""
    for modality in MODALITIES:
        if wanted == modality:
            return modality
    return "CT" if labelled.get("CT", 0) > labelled.get("MR", 0) else "MR"


def rows_of(batch: Batch) -> Rows:
    """Numbers of the samples of each modality, in their order."""
    return {m: (batch.modality == number).nonzero()[:, 0] for number, m in enumerate(MODALITIES)}


def hint(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Sum over levels of the mean squared difference, which does not depend on their sizes."""
    parts = [
        (one.float() - other.float()).square().sum() / max(one.numel(), 1)
        for one, other in zip(student, teacher, strict=True)
    ]
    return torch.stack(parts).sum()


def _supervised(logits: Tensor, batch: Batch, rows: Tensor) -> Tensor:
    return supervised_loss(logits, batch.label[rows], batch.valid[rows], batch.known[rows])
