"""What a secure data environment asks before a site's results may leave, answered for each site. Torch-free.

Answers come from the run's records alone: a question on which nothing is on record is answered by saying so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.accounting import epsilon_words
from engine.federation import release
from engine.methods import catalogue
from engine.report.document import RunDocument
from engine.report.ledger import GENERATOR, Message, contents
from engine.report.privacy import UNITS, privacy_words
from engine.report.site_records import NO_PROOFS, Proofs
from engine.runs.generator_checks import WITHHELD

State = Literal["good", "open", "bad"]
"""``good``: on record, and within its limits; ``open``: nothing on record, or no limit to hold it to; ``bad``: outside
of its limits, or in disagreement."""
REAL_MASKS = "real"
MASKS = "masks"


@dataclass(frozen=True)
class Left:
    """All messages of one kind that have left one site."""

    kind: str
    title: str
    contents: str
    num_messages: int
    num_bytes: int
    digests: tuple[str, ...]
    """SHA-256 of what left, in order, as far as the site's record has them."""
    approved_by: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """One question, and what is on record."""

    question: str
    state: State
    said: str


@dataclass(frozen=True)
class SiteEgress:
    """What left one site, and the answers to what is asked about it."""

    site: str
    left: tuple[Left, ...]
    num_bytes: int
    answers: tuple[Answer, ...]
    generator: Mapping[str, float] = field(default_factory=dict)
    """What the site has measured of its generator, by the names of ``engine.federation.release``."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "site": self.site,
            "bytes": self.num_bytes,
            "left": [vars(one) for one in self.left],
            "answers": [vars(one) for one in self.answers],
            "generator": dict(self.generator),
        }


def egress(
    document: RunDocument, checks: Mapping[str, Mapping[str, Any]], proofs: Proofs = NO_PROOFS
) -> tuple[SiteEgress, ...]:
    """Return what left each site of a run, sorted by site; a site that sent nothing is left out.

    ``checks`` is what the sites have told of their generators, ``proofs`` what they have handed over of their records.
    """
    up = [message for message in document.ledger if message.direction == "up"]
    found = []
    for site in sorted({message.site for message in up}):
        mine = [message for message in up if message.site == site]
        check = checks.get(site, {})
        figures = {key: value for key, value in check.get("figures", {}).items() if key in release.FIGURES}
        answers = (
            _images(mine),
            *_masks(document, mine),
            *_generator(mine, check, figures),
            *_privacy(document, mine),
            _approved(site, mine, proofs),
            _record(site, proofs),
        )
        found.append(SiteEgress(site, _left(mine, proofs), sum(m.payload_bytes for m in mine), answers, figures))
    return tuple(found)


def _left(messages: Sequence[Message], proofs: Proofs) -> tuple[Left, ...]:
    found = []
    for kind in dict.fromkeys(message.kind for message in messages):
        same = [message for message in messages if message.kind == kind]
        proved = [proofs.of[message] for message in same if message in proofs.of]
        known = catalogue.kinds().get(kind)
        found.append(
            Left(
                kind,
                kind if known is None else known.title,
                contents(kind),
                len(same),
                sum(message.payload_bytes for message in same),
                tuple(proof.sha256 for proof in proved),
                tuple(dict.fromkeys(proof.approved_by for proof in proved)),
            )
        )
    return tuple(found)


def _images(messages: Sequence[Message]) -> Answer:
    unknown = sorted({message.kind for message in messages} - catalogue.kinds().keys())
    question = "Do images of patients leave?"
    if unknown:
        said = f"Not by what this version knows, but it does not know what these hold: {', '.join(unknown)}."
        return Answer(question, "open", said)
    return Answer(question, "good", "No kind of message that left holds one; all kinds are listed below.")


def _masks(document: RunDocument, messages: Sequence[Message]) -> list[Answer]:
    if not any(message.kind == MASKS for message in messages):
        return []
    question = "Do outlines of patients' anatomy leave?"
    if document.config is None:
        return [Answer(question, "open", "Masks left, and this version cannot read whether they were real ones.")]
    sharing = document.config.generation.mask_sharing
    if sharing == REAL_MASKS:
        said = "Yes, real masks, without images, names and identifiers, as in the paper (generation.mask_sharing)."
        return [Answer(question, "bad", said)]
    return [
        Answer(question, "open", f"Masks left that were {sharing} first: how near each is to a real one is not told.")
    ]


def _generator(messages: Sequence[Message], check: Mapping[str, Any], figures: Mapping[str, float]) -> list[Answer]:
    question = "Could the site's image generator give its training images away?"
    has_left = any(message.kind == GENERATOR for message in messages)
    if not has_left and not check:
        return []
    if check.get("state") == WITHHELD and not has_left:
        return [Answer(question, "good", f"It was withheld: {check.get('reason') or 'the site has not said why'}.")]
    if release.AUC not in figures:
        said = "It left, and nothing was measured: turn release.check on, or have the site ask for it by its own rules."
        return [Answer(question, "open", said)]
    reason = release.reason_to_withhold(figures, release.limits_in(figures))
    said = _measured(figures)
    return [
        Answer(question, "bad" if reason else "good", f"{said} It left all the same: {reason}." if reason else said)
    ]


def _measured(figures: Mapping[str, float]) -> str:
    limits = release.limits_in(figures)
    ends = ""
    if {release.AUC_LOW, release.AUC_HIGH} <= figures.keys():
        ends = f" [{figures[release.AUC_LOW]:.2f}, {figures[release.AUC_HIGH]:.2f}]"
    said = (
        f"An attack tells its training images from held-out ones with an AUC of {figures[release.AUC]:.2f}{ends}; 0.5 "
        f"is chance, the limit is {limits.membership_auc:g}."
    )
    if release.COPIES in figures:
        most = "no limit was set" if limits.copies is None else f"the limit is {limits.copies}"
        said += f" {figures[release.COPIES]:.0f} of its images were copies of training images; {most}."
    if release.RATIO in figures:
        said += (
            f" Its images lie {figures[release.RATIO]:.2f} times as far from training images as from held-out ones; "
            "well under 1 would be by heart."
        )
    if {release.MEMBERS, release.HELD_OUT} <= figures.keys():
        said += f" Measured on {figures[release.MEMBERS]:.0f} and {figures[release.HELD_OUT]:.0f} images."
    return said


def _privacy(document: RunDocument, messages: Sequence[Message]) -> list[Answer]:
    found = []
    for unit in dict.fromkeys(one.epsilon_of for one in messages if one.epsilon_of is not None):
        spent = [one.epsilon for one in messages if one.epsilon_of == unit and one.epsilon is not None]
        found.append(f"Of {UNITS[unit]} privacy epsilon = {epsilon_words(max(spent))} at most was spent.")
    question = "Is there a formal limit to what can be learnt of a patient or of the site?"
    if not found:
        return [Answer(question, "open", "No: nothing was noised (privacy.mechanism, generator.dp_noise_multiplier).")]
    return [Answer(question, "open", " ".join([*found, *privacy_words(document.config)]))]


def _approved(site: str, messages: Sequence[Message], proofs: Proofs) -> Answer:
    question = "Has somebody at the site approved what left?"
    sent = [message for message in messages if message.kind != catalogue.METRICS.name]
    if site not in proofs.sites:
        said = "Not on record at the server. A site with its own program has it (python -m engine site log FOLDER)."
        return Answer(question, "open", said)
    approved = [message for message in sent if message in proofs.of]
    names = ", ".join(dict.fromkeys(proofs.of[message].approved_by for message in approved)) or "nobody"
    said = f"{len(approved)} of {len(sent)} messages with content, by {names}."
    return Answer(question, "good" if len(approved) == len(sent) else "bad", said)


def _record(site: str, proofs: Proofs) -> Answer:
    question = "Do the server's and the site's records agree?"
    if site not in proofs.sites:
        return Answer(question, "open", "The site's record was not handed over (--site-record SITE=FILE).")
    faults = [said for said in proofs.said if said.startswith(f"{site}: ")][1:]
    if faults:
        return Answer(question, "bad", " ".join(faults))
    return Answer(question, "good", "Every message has its line, byte for byte, and the chain of the record is whole.")
