"""The public labelled set at the server: opened once for a run, and sent to the sites, which refuse what is theirs."""

from __future__ import annotations

from engine.data.public import PublicSet, load_public
from engine.data.public_arrays import digests_in, pack_public
from engine.errors import UserError
from engine.federation.tasks import LABEL_BY_TEACHER, TAKE_PUBLIC, SiteReply
from engine.methods.catalogue import ModelSpec
from engine.models.arrays import model_arrays
from engine.models.roles import model_name
from engine.models.state_keys import trained_keys
from engine.stages.context import RunContext
from engine.stages.files import read_json, write_json

IDENTITY_FILE = "data/public.json"
SENT = "public_sent"
"""Checkpoint: the sites that have what is sent once."""


def public_set(context: RunContext) -> PublicSet:
    """Return the run's public set; ``UserError`` where it is not the sites', or has changed since the run began."""
    public = load_public(context.config.data, seed=context.config.seed)
    if public.classes != context.description.classes:
        raise UserError(
            "data.classes_differ",
            what=f"The public set {public.name} has the classes {', '.join(public.classes)}, the sites' dataset "
            f"{context.description.name} has {', '.join(context.description.classes)}.",
            why="What the sites segment is learnt from the public set, in the same order.",
            fix="Give both dataset.toml files the same classes, or name some of both in data.classes.",
        )
    path, now = context.run_dir / IDENTITY_FILE, {"public": public.identity()}
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
    elif read_json(path) != now:
        raise UserError(
            "run.data_changed",
            what=f"The images of the public set {public.name} are not those that this run began with.",
            why="Going on with others would mix two datasets.",
            fix="Put the files back as they were, or start a new run on the data as they are.",
        )
    return public


def send_public(context: RunContext) -> PublicSet:
    """Send the public set to each site that trains, once; a test site compares its digests alone. Returns the set.

    Raises ``UserError`` ``data.public_shared``, which names a site that has some of its patients or image files.
    """
    public = public_set(context)
    missing = _missing(context, TAKE_PUBLIC, (*context.sites.names, *(site.name for site in context.description.tests)))
    if missing:
        arrays = pack_public(public)
        tested = [site for site in missing if site not in context.sites.names]
        _send(context, TAKE_PUBLIC, to=tested, kind="public", arrays=digests_in(arrays))
        _send(context, TAKE_PUBLIC, to=[s for s in missing if s not in tested], kind="public", arrays=arrays)
    return public


def send_teacher(context: RunContext, spec: ModelSpec) -> None:
    """Send the teacher's trained arrays to each site that trains, once; it labels the site's images there.

    Its other arrays are SAM's first weights, which every site has. Only figures come back.
    """
    missing = _missing(context, LABEL_BY_TEACHER, context.sites.names)
    if missing:
        model = context.load_model("teacher", spec.name)
        trained = trained_keys(model, name=model_name(context.config, "teacher"))
        whole = model_arrays(model)
        arrays = {name: whole[name] for name in trained}
        _send(context, LABEL_BY_TEACHER, to=missing, kind="teacher", arrays=arrays)


def _missing(context: RunContext, task: str, sites: tuple[str, ...]) -> list[str]:
    sent = context.checkpoints.load(SENT) or {}
    return [site for site in sites if site not in sent.get(task, [])]


def _send(context: RunContext, task: str, *, to: list[str], **what: object) -> None:
    def note(_round: int, site: str, _reply: SiteReply) -> None:
        sent = context.checkpoints.load(SENT) or {}
        context.checkpoints.save(SENT, {**sent, task: [*sent.get(task, []), site]})

    if to:
        context.sites.ask(task, to=to, on_reply=note, **what)  # type: ignore[arg-type]
