"""Reference mode beside the authors' own loop: the same models, batches and steps; the largest difference of weights.

    python -m bench.parity --mode reference --authors DSFEDMED --official TINYSAM

DSFEDMED and TINYSAM are clones of github.com/LMIAPC/DSFedMed and github.com/xinghaochen/TinySAM; no line of theirs is
part of this project. From their script's syntax tree the statements that set up the models' optimisers and losses, and
the body of the training loop, are executed as they stand, on the CPU. What their clone lacks is put beside it: the ViT
is segment_anything's, TinyViT is TinySAM's (with the side of its feature map in place of a literal 64), and ``kl_loss``
and ``symmetric_mse_loss``, of which only bytecode was published, are written down below. Between set-up and loop their
script runs ``test`` and ``validation``; that these call ``eval()`` and that nothing calls ``train()`` afterwards is
read from the script, and the models are switched so.
"""

from __future__ import annotations

import ast
import importlib
import logging
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from bench.tinysam_parity import make_tensor
from engine.config import DistillationConfig, RunConfig
from engine.distillation.mutual import MutualDistillation
from engine.models.decoder import DecoderPreset
from engine.models.key_layouts import to_own_keys
from engine.models.sam import SamPreset, build_sam
from engine.models.tinysam import TinySamPreset, build_tinysam
from engine.seeding import numpy_generator

SCRIPT = "train_fed_sam_kd_sam_sample_2.0.py"
NUM_STEPS, BATCH = 3, 4
TOLERANCE, LEARNING_RATE = 1e-6, 1e-4
LISTED = 8
IMAGE_PX, STRIDE = 256, 16
FEATURE_PX, GRID_PX = IMAGE_PX // STRIDE, IMAGE_PX // STRIDE * 4
SAM_SIZE = SamPreset(embed_dim=48, depth=2, num_heads=3, global_attn_indexes=(1,))
# TinySAM's neck is 256 wide, and its last merging keeps the size where it has 320 channels.
TINYSAM_SIZE = TinySamPreset(
    embed_dims=(16, 32, 48, 320), depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 10), window_sizes=(7, 7, 14, 7),
    merge_strides=(2, 2, 1),
)  # fmt: skip
DECODER = DecoderPreset()


class Pool:
    """Twelve noisy images with a bright disc each; the mask on the decoder's grid, as their files hold it."""

    def __init__(self, dtype: torch.dtype) -> None:
        rng = numpy_generator(5, "reference parity")
        self.names = tuple(f"disc{i}" for i in range(NUM_STEPS * BATCH))
        rows, columns = np.mgrid[:GRID_PX, :GRID_PX]
        discs = []
        for _ in self.names:
            y, x, radius = rng.uniform(0.2, 0.8, size=3) * (GRID_PX, GRID_PX, GRID_PX / 3)
            discs.append((rows - y) ** 2 + (columns - x) ** 2 < radius**2)
        self.mask = np.stack(discs)[:, None].astype(np.uint8)
        fine = self.mask.repeat(IMAGE_PX // GRID_PX, axis=2).repeat(IMAGE_PX // GRID_PX, axis=3)
        noise = rng.random((len(self.names), 3, IMAGE_PX, IMAGE_PX), dtype=np.float32)
        self.image = (0.5 * fine + 0.5 * noise).astype(np.float64 if dtype == torch.float64 else np.float32)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return images and masks; their loop augments nothing (``rng`` unused)."""
        return self.image[indices], self.mask[indices]


@dataclass(frozen=True)
class Outcome:
    """State dicts after the last step, and each step's [L_sup(SAM), L_sup(Tiny), KL of the picked]."""

    states: dict[str, dict[str, Tensor]]
    losses: list[list[float]]


def kl_loss(pred_masks: Tensor, target_masks: Tensor, temperature: float = 1.0, flag: str = "") -> Any:
    """Their divergence as its published bytecode computes it (methods.md 1.3): KL(target || pred) of each pixel."""
    p, q, eps = torch.sigmoid(pred_masks / temperature), torch.sigmoid(target_masks / temperature), 1e-8
    pixels = q * (torch.log(q + eps) - torch.log(p + eps))
    pixels = pixels + (1 - q) * (torch.log(1 - q + eps) - torch.log(1 - p + eps))
    return (pixels.mean() * temperature**2, pixels * temperature**2) if flag == "sample" else pixels.mean()


def symmetric_mse_loss(first: Tensor, second: Tensor) -> Tensor:
    """Their feature term, likewise from its bytecode."""
    return torch.mean((first - second) ** 2)


class OnCpu(ast.NodeTransformer):
    """Turns ``x.cuda(device)`` into ``x.cpu()``, the one thing of their loop that needs a GPU."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace the call where it is one of ``.cuda``."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            node.func.attr, node.args = "cpu", []
        return node


def read_loop(script: Path) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Return their set-up (from ``teacher_net.train()`` to the losses' settings) and the body of their inner loop."""
    tree = OnCpu().visit(ast.parse(script.read_text(encoding="utf-8")))
    (main,) = (node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
    texts = [ast.unparse(node) for node in main.body]
    start, end = texts.index("teacher_net.train()"), texts.index("feature_loss = args.feature")
    tested = [i for i, text in enumerate(texts) if text.startswith(("dice_avg, eiou_avg = test(", "validation("))]
    (epochs,) = (node for node in main.body if isinstance(node, ast.For) and "max_epoch" in ast.unparse(node.iter))
    after = [ast.unparse(node) for node in main.body[end:]]
    functions = {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    both_tested = all(any(net in texts[i] for i in tested) for net in ("student_net", "teacher_net"))
    switched = all(".eval()" in functions[name] for name in ("test", "val")) and "val(" in functions["validation"]
    if not (both_tested and switched) or any(".train()" in text for text in after):
        raise SystemExit("their script no longer trains in eval mode: read it again")
    (batches,) = (node for node in epochs.body if isinstance(node, ast.For))
    ratio = [node for node in main.body if ast.unparse(node).startswith("k_ratio =")]
    return [*main.body[start : end + 1], *ratio], batches.body


class AnySize(ast.NodeTransformer):
    """Turns the literal 64 x 64 of TinyViT's feature map into its side at ``IMAGE_PX``."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Replace the number."""
        return ast.Constant(FEATURE_PX) if node.value == 64 else node


def load_tiny_vit(path: Path) -> Any:
    """Return TinySAM's TinyViT for images of ``IMAGE_PX``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (view,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and "view(B, 64, 64" in ast.unparse(node))
    view.args = [AnySize().visit(argument) for argument in view.args]
    module = ModuleType("tinysam_modeling.tiny_vit_sam")
    module.__package__ = "tinysam_modeling"
    sys.modules[module.__name__] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it registers names that timm has by now
        exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)
    return module.TinyViT


def load_package(name: str, folder: Path) -> None:
    """Make modules of ``folder`` importable as ``name.MODULE`` without running the package's own imports."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def build_theirs(authors: Path, official: Path) -> dict[str, nn.Module]:
    """Return teacher and student of their classes with weights named after their keys."""
    for old, new in (("timm.models.layers", "timm.layers"), ("timm.models.registry", "timm.models._registry")):
        sys.modules[old] = importlib.import_module(new)
    load_package("dsfedmed_modeling", authors / "models" / "sam" / "modeling")
    load_package("tinysam_modeling", official / "tinysam" / "modeling")
    part = {
        name: importlib.import_module(f"dsfedmed_modeling.{name}")
        for name in ("mask_decoder", "prompt_encoder", "transformer")
    }
    tiny_vit = load_tiny_vit(official / "tinysam" / "modeling" / "tiny_vit_sam.py")
    size = SAM_SIZE
    encoders = {
        "teacher": ImageEncoderViT(
            img_size=IMAGE_PX, patch_size=16, embed_dim=size.embed_dim, depth=size.depth, num_heads=size.num_heads,
            mlp_ratio=4, out_chans=DECODER.dim, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True, window_size=size.window_size, global_attn_indexes=size.global_attn_indexes,
        ),
        "student": tiny_vit(
            img_size=IMAGE_PX, in_chans=3, num_classes=10, embed_dims=list(TINYSAM_SIZE.embed_dims),
            depths=list(TINYSAM_SIZE.depths), num_heads=list(TINYSAM_SIZE.num_heads),
            window_sizes=list(TINYSAM_SIZE.window_sizes), mlp_ratio=4.0, drop_rate=0.0, drop_path_rate=0.0,
            use_checkpoint=False, mbconv_expand_ratio=4.0, local_conv_size=3, layer_lr_decay=0.8,
        ),
    }  # fmt: skip
    models = {}
    for name, encoder in encoders.items():
        model = nn.Module()
        model.image_encoder = encoder
        model.prompt_encoder = part["prompt_encoder"].PromptEncoder(
            embed_dim=DECODER.dim,
            image_embedding_size=(FEATURE_PX, FEATURE_PX),
            input_image_size=(IMAGE_PX, IMAGE_PX),
            mask_in_chans=16,
        )
        transformer = part["transformer"].TwoWayTransformer(
            depth=DECODER.depth, embedding_dim=DECODER.dim, mlp_dim=DECODER.mlp_dim, num_heads=DECODER.num_heads
        )
        model.mask_decoder = part["mask_decoder"].MaskDecoder(transformer_dim=DECODER.dim, transformer=transformer)
        model.load_state_dict({k: make_tensor(f"{name}.{k}", tuple(v.shape)) for k, v in model.state_dict().items()})
        models[name] = model
    return models


def run_theirs(models: dict[str, nn.Module], pool: Pool, *, script: Path, learning_rate: float) -> Outcome:
    """Execute their set-up and ``NUM_STEPS`` passes of their loop's body."""
    set_up, body = read_loop(script)
    batches = [
        {
            "image": torch.from_numpy(pool.image[rows]),
            "label": torch.from_numpy(pool.mask[rows].astype(pool.image.dtype)),
            "pt": torch.zeros(BATCH, 2),
        }
        for rows in step_rows()
    ]
    scope: dict[str, Any] = {
        "torch": torch, "logging": logging, "kl_loss": kl_loss, "symmetric_mse_loss": symmetric_mse_loss,
        "args": SimpleNamespace(base_lr=learning_rate, kd_epoch=0, feature=False), "GPUdevice": torch.device("cpu"),
        "teacher_net": models["teacher"], "student_net": models["student"], "epoch_num": 0, "display_freq": 20,
    }  # fmt: skip
    exec(compile(ast.Module(set_up, []), str(script), "exec"), scope)
    for model in models.values():
        model.eval()
    code = compile(ast.Module(body, []), str(script), "exec")
    losses = []
    for i_batch, sampled_batch in enumerate(batches):
        scope |= {"i_batch": i_batch, "sampled_batch": sampled_batch}
        exec(code, scope)
        kl = scope["loss_kl_1_selected"] + scope["loss_kl_2_selected"]
        values = (scope["loss_gt_teacher"], scope["loss_gt_student"], kl)
        losses.append([float(value.detach()) for value in values])
    return Outcome({name: model.state_dict() for name, model in models.items()}, losses)


def step_rows() -> list[np.ndarray]:
    """Return the pool indices of each step, the same for both sides."""
    return [np.arange(step * BATCH, (step + 1) * BATCH) for step in range(NUM_STEPS)]


def to_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return ``model`` in ``dtype``, but its prompt encoder, whose positions are always float32, as it is there."""
    model.to(dtype).prompt_encoder.float()
    return model


def to_ours(states: dict[str, dict[str, Tensor]]) -> dict[str, nn.Module]:
    """Return our models with ``states`` in their layout."""
    models = {
        "teacher": build_sam(SAM_SIZE, num_classes=1, image_px=IMAGE_PX),
        "student": build_tinysam(TINYSAM_SIZE, num_classes=1, image_px=IMAGE_PX),
    }
    for name, model in models.items():
        own, _, _ = to_own_keys(states[name])
        kept = {key: value.detach().clone() for key, value in own.items() if not key.startswith("seg1.")}
        to_precision(model, kept["image_encoder.neck.0.weight"].dtype).load_state_dict(kept)
    return models


def run_ours(models: dict[str, nn.Module], pool: Pool, *, learning_rate: float) -> Outcome:
    """Take the same steps by the engine's own loop in reference mode."""
    part = DistillationConfig(
        mode="reference",
        selector="in_batch_quantile",
        batch_size=BATCH,
        student_learning_rate=learning_rate,
        teacher_learning_rate=learning_rate,
    )
    loop = MutualDistillation(
        teacher=models["teacher"],
        student=models["student"],
        pool=pool,
        config=RunConfig(precision="fp32", distillation=part),
        grid_px=GRID_PX,
        device=torch.device("cpu"),
    )
    reports = [loop.train_step(rows) for rows in step_rows()]
    return Outcome(
        {name: model.state_dict() for name, model in models.items()},
        [[r.teacher_loss, r.student_loss, r.divergence] for r in reports],
    )


def compare(theirs: Outcome, ours: Outcome) -> list[tuple[str, float]]:
    """Return the largest difference of every tensor, largest first, named MODEL.KEY in our layout."""
    expected = {name: model.state_dict() for name, model in to_ours(theirs.states).items()}
    rows = [
        (f"{name}.{key}", float((ours.states[name][key].double() - value.double()).abs().max()))
        for name, state in expected.items()
        for key, value in state.items()
    ]
    return sorted(rows, key=lambda row: -row[1])


def reference_parity(authors: Path, official: Path) -> bool:
    """Print both sides' losses and the differences after the last step, in float64 and in float32; True if they agree.

    In float64 every weight is held to ``TOLERANCE``. In float32 a weight whose gradient is rounding alone moves by it:
    Adam divides by the gradient's own size. The largest such differences are listed.
    """
    agree = True
    for dtype in (torch.float64, torch.float32):
        with torch.enable_grad():
            theirs = {name: to_precision(m, dtype) for name, m in build_theirs(authors, official).items()}
            ours = to_ours({name: model.state_dict() for name, model in theirs.items()})
            pool = Pool(dtype)
            outcomes = (
                run_theirs(theirs, pool, script=authors / SCRIPT, learning_rate=LEARNING_RATE),
                run_ours(ours, pool, learning_rate=LEARNING_RATE),
            )
        losses = np.abs(np.array(outcomes[0].losses) - np.array(outcomes[1].losses)).max()
        rows = compare(*outcomes)
        beyond = [row for row in rows if row[1] > TOLERANCE]
        print(
            f"{str(dtype).removeprefix('torch.')}: after {NUM_STEPS} steps {len(rows)} tensors differ by at most "
            f"{rows[0][1]:.1e}, the losses by {losses:.1e}; beyond {TOLERANCE:.0e}: {len(beyond)}",
            flush=True,
        )
        for name, difference in beyond[:LISTED]:
            print(f"  {difference:.1e}  {name}")
        agree = agree and losses <= TOLERANCE and (dtype == torch.float32 or not beyond)
    return agree
