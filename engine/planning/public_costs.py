"""What learning from a public labelled set and from unlabelled sites takes and sends, stage by stage. Torch-free."""

from __future__ import annotations

import math

from engine.data.public import load_public
from engine.planning.codec_bytes import codec_sentences
from engine.planning.costs import GIB, ModelCost
from engine.planning.model_keys import model_keys
from engine.planning.stage_costs import StageCost, sharing_sentence
from engine.planning.workload import SiteBytes, Workload

FLOAT_BYTES, HALF_BYTES = 4, 2
TRAINED_PARTS = ("mask_decoder.", "seg1.")
QKV = ".attn.qkv.weight"


def public_training(work: Workload) -> StageCost:
    """The student on the public set."""
    return _on_public(work, work.student, epochs=work.config.public.epochs, parameters=work.student.parameters)


def teacher_adaptation(work: Workload) -> StageCost:
    """SAM on the public set: every pass is whole, and what is kept of it is what is trained."""
    trained = teacher_bytes(work) // FLOAT_BYTES
    return _on_public(work, work.teacher, epochs=work.config.public.teacher_epochs, parameters=trained)


def semi_supervised_training(work: Workload) -> StageCost:
    """The rounds: two passes with gradient, two without, for each unlabelled image; SAM looks at it once."""
    config, semi, num_public = work.config.federation, work.config.samfed, _num_public(work)
    sites, averaged = len(work.sources), config.site_students is None
    asked = config.num_asked(sites) if averaged else sites
    share = asked / sites  # of the rounds, that a site is expected in
    epochs = config.rounds * config.local_epochs
    trained = round(share * epochs * sum(site.num_train for site in work.sources))
    steps = round(share * epochs * sum(math.ceil(site.num_train / config.batch_size) for site in work.sources))
    seconds = trained * (2 * work.train_s(work.student) + 2 * work.pass_s(work.student))
    passes = 2 * config.rounds if averaged and work.validates_mean else config.rounds + 1
    seconds += share * passes * sum(site.num_validation for site in work.sources) * work.pass_s(work.student)
    sent: dict[tuple, int] = {("down", "public"): public_bytes(work, num_public)}
    leaves: tuple[str, ...] = ()
    if semi.uses_teacher:
        seconds += sum(site.num_train for site in work.sources) * work.pass_s(work.teacher)
        sent["down", "teacher"] = teacher_bytes(work)
        leaves = ("SAM labels each site's images at the site; nothing that it says of them goes up.",)
    if not averaged:
        grid = work.config.data.image_px // work.student.mask_stride
        logits = num_public * work.num_classes * grid**2 * HALF_BYTES
        sent |= {("down", "public_predictions"): config.rounds * logits}
        sent |= {("up", "public_predictions"): config.rounds * logits}
        seconds += (
            config.rounds * (len(work.sources) + 1) * semi.fusion_epochs * num_public * work.train_s(work.student)
        )
        leaves += (
            "Each site's model says what it sees in the public images, in every round; no weights leave a site. Such "
            "predictions can still reveal something of the images that the model was trained on.",
        )
    else:
        messages = work.round_messages
        validated = share * (config.rounds if work.validates_mean else 1) * work.shared_bytes
        sent |= {("down", "student"): round(messages.down(config.rounds, share) + validated)}
        sent |= {("up", "student"): round(messages.up(config.rounds, share))}
        leaves += codec_sentences(config)
        leaves += (
            "Student weights go both ways in every round, no images. Weights can still reveal something of the images "
            "they were trained on.",
        )
        if work.sharing is not None:
            leaves += (sharing_sentence(work.sharing),)
            if work.sharing.averaged_once:
                sent |= {("up", "normalisation"): work.key_bytes(work.sharing.averaged_once)}
    memory = work.base_gib() + 5 * work.student.state_bytes / GIB
    memory += 3 * work.train_gib(work.student, batch_size=config.batch_size)
    if semi.uses_teacher:
        memory += FLOAT_BYTES * work.teacher.parameters / GIB
    disk = (6 + len(work.sources)) * work.student.state_bytes
    disk += len(work.sources) * (3 * 8 * work.student.parameters + public_bytes(work, num_public))
    if averaged:
        disk += 3 * work.round_messages.site_files * sites * work.student.state_bytes
    of_them = f"{sites}" if asked == sites else f"{asked} of {sites}"
    where = f"{config.rounds} rounds at {of_them} sites without labels"
    seconds = work.by_the_sites(seconds, [site.num_train for site in work.sources])
    shares: SiteBytes = sent
    return StageCost(steps, trained, seconds, memory, where, work.at_each_site(shares), leaves, disk)


def public_bytes(work: Workload, num_public: int) -> int:
    """Return the most bytes of the public set as it is sent: three channels of 8 bits, and a bit for each class."""
    area = work.config.data.image_px**2
    return num_public * (3 * area + math.ceil(work.num_classes * area / 8))


def teacher_bytes(work: Workload) -> int:
    """Return the bytes of what is trained of SAM, and sent: its LoRA of 4 D r numbers a block, and the decoder."""
    chosen = work.config.teacher
    keys = model_keys(f"{chosen.name}/{chosen.size}", num_classes=work.num_classes)
    if chosen.lora_rank is None:
        return work.teacher.state_bytes
    decoder = sum(key.num_bytes for key in keys if key.name.startswith(TRAINED_PARTS) and not key.is_buffer)
    widths = [math.isqrt(key.num_bytes // (3 * FLOAT_BYTES)) for key in keys if key.name.endswith(QKV)]
    return decoder + sum(4 * width * chosen.lora_rank * FLOAT_BYTES for width in widths)


def _on_public(work: Workload, model: ModelCost, *, epochs: int, parameters: int) -> StageCost:
    config, count = work.config.public, _num_public(work)
    images, steps = epochs * count, epochs * math.ceil(count / config.batch_size)
    memory = work.base_gib() + work.train_gib(model, batch_size=config.batch_size)
    disk = 2 * (4 * model.parameters + 8 * parameters) + 4 * model.parameters
    detail = f"{epochs} epochs on {count} public images"
    return StageCost(steps, images, images * work.train_s(model), memory, detail, disk_bytes=disk)


def _num_public(work: Workload) -> int:
    return len(load_public(work.config.data, seed=work.config.seed).images)
