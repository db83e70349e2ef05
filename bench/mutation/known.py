"""Errors in the method that once left its tests green, or that nobody may make unseen: each must turn a test red."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from bench.mutation.operators import Mutant


@dataclass(frozen=True)
class KnownError:
    """``right`` stands exactly once in ``path``; ``wrong`` in its place is the error that ``name`` tells."""

    name: str
    path: str
    right: str
    wrong: str

    @property
    def package(self) -> str:
        """The package below ``engine`` that it is in."""
        return self.path.split("/")[1]

    @property
    def folder(self) -> str:
        """The folder that it is in, from the root."""
        return self.path.rpartition("/")[0]

    def mutant(self, root: Path) -> Mutant:
        """Return the module with the error in it; ``ValueError`` where the right line has changed."""
        text = (root / self.path).read_text(encoding="utf-8")
        if text.count(self.right) != 1:
            raise ValueError(f"{self.path} has {self.right!r} {text.count(self.right)} times, once is expected")
        line = text[: text.index(self.right)].count("\n") + 1
        tree = ast.parse(text.replace(self.right, self.wrong), filename=self.path)
        return Mutant(self.path, line, self.name, self.right, self.wrong, tree)


KNOWN: tuple[KnownError, ...] = (
    KnownError(
        "the divergence is weighed w instead of 1 - w",
        "engine/distillation/mutual.py",
        "(1 - weight) * divergence",
        "weight * divergence",
    ),
    KnownError(
        "SAM's BCE loses its weight",
        "engine/distillation/mutual.py",
        "loss = loss + weight * teacher_loss",
        "loss = loss + teacher_loss",
    ),
    KnownError(
        "SAM's BCE is left out",
        "engine/distillation/mutual.py",
        "loss = loss + weight * teacher_loss",
        "loss = loss + 0 * teacher_loss",
    ),
    KnownError(
        "the student distils in eval mode",
        "engine/distillation/mutual.py",
        "self.student.train(learns_statistics)",
        "self.student.eval()",
    ),
    KnownError(
        "the reference mode trains in train mode",
        "engine/distillation/mutual.py",
        'learns_statistics = self.config.mode == "paper"',
        "learns_statistics = True",
    ),
    KnownError(
        "one-way distillation reaches SAM",
        "engine/distillation/mutual.py",
        "directed_kl(teacher_logits.detach(), student_logits",
        "directed_kl(student_logits, teacher_logits",
    ),
    KnownError(
        "foreground weighs like background",
        "engine/models/objective.py",
        "pos_weight=weight, reduction",
        "reduction",
    ),
    KnownError(
        "lambda weighs the wrong term",
        "engine/distillation/choice.py",
        "weight * -l_gt + (1.0 - weight) * l_kl",
        "(1.0 - weight) * -l_gt + weight * l_kl",
    ),
    KnownError(
        "reliable samples score low",
        "engine/distillation/choice.py",
        "weight * -l_gt +",
        "weight * l_gt +",
    ),
    KnownError(
        "the worst samples are chosen",
        "engine/distillation/selection.py",
        'np.argsort(-scores, kind="stable")[: num_selected',
        'np.argsort(scores, kind="stable")[: num_selected',
    ),
    KnownError(
        "divergences are summed over pixels",
        "engine/distillation/losses.py",
        "(first.sigmoid() - second.sigmoid()) * (first - second)",
        "(first.sigmoid() - second.sigmoid()) * (first - second) * first.shape[2]",
    ),
    KnownError(
        "sites train on their validation images",
        "engine/site/tasks/student.py",
        "train_site(model, site.data.train, config",
        "train_site(model, site.data.validation, config",
    ),
    KnownError(
        "validation is on the training images",
        "engine/site/tasks/student.py",
        "        site.data.validation,\n        batch_size",
        "        site.data.train,\n        batch_size",
    ),
    KnownError(
        "validation images are augmented",
        "engine/site/local_training.py",
        "image_B3HW, mask_BKHW = image_set.batch(indices)",
        'image_B3HW, mask_BKHW = image_set.batch(indices, rng=numpy_generator(0, "augment"))',
    ),
    KnownError(
        "validation is in train mode",
        "engine/site/local_training.py",
        "    model.eval()\n    dice",
        "    model.train()\n    dice",
    ),
    KnownError(
        "all sites draw one order and one augmentation",
        "engine/site/local_training.py",
        'stream = ("federation", site, round_number)',
        'stream = ("federation", round_number)',
    ),
    KnownError(
        "every round draws the same order",
        "engine/site/local_training.py",
        'stream = ("federation", site, round_number)',
        'stream = ("federation", site)',
    ),
    KnownError(
        "the sites weigh alike",
        "engine/federation/aggregation/fedavg.py",
        "rounded_shares(num_examples) if rounded_weights else num_examples",
        "rounded_shares(num_examples) if rounded_weights else dict.fromkeys(num_examples, 1)",
    ),
    KnownError(
        "all sites get the same diffusion noise",
        "engine/generation/training.py",
        'torch_generator(self._seed, "generator", self._site, "noise", number)',
        'torch_generator(self._seed, "generator", "noise", number)',
    ),
    KnownError(
        "every step gets the same diffusion noise",
        "engine/generation/training.py",
        'torch_generator(self._seed, "generator", self._site, "noise", number)',
        'torch_generator(self._seed, "generator", self._site, "noise")',
    ),
    KnownError(
        "latents are not scaled",
        "engine/generation/training.py",
        "latents = latents * self._backbone.vae.config.scaling_factor\n"
        "        noise = torch.randn(latents.shape, generator=generator)\n        steps",
        "latents = latents * 1.0\n        noise = torch.randn(latents.shape, generator=generator)\n        steps",
    ),
    KnownError(
        "all sites' samples get the same noise",
        "engine/stages/generation.py",
        'seed=derive_seed(context.config.seed, "generation", site, index)',
        'seed=derive_seed(context.config.seed, "generation", index)',
    ),
    KnownError(
        "masks of validation images are shared",
        "engine/site/tasks/masks.py",
        "config, train = site.config, site.data.train",
        "config, train = site.config, site.data.validation",
    ),
)
