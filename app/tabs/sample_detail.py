"""One synthetic pair in full on the Samples tab: pictures, both predictions of each class, and its numbers."""

from __future__ import annotations

from html import escape

from app import markup, overlays, sample_text, sample_view, score_history, text
from app.pictures import ClassPictures, SamplePictures
from app.studio import Studio
from export.results import class_colour

Models = dict[str, str]
"""What the run calls its ``student`` and its ``teacher``."""
DISPUTE_KEY = (
    (overlays.BOTH, text.DISPUTE_BOTH),
    (overlays.TEACHER_ONLY, text.DISPUTE_TEACHER),
    (overlays.STUDENT_ONLY, text.DISPUTE_STUDENT),
)


def html(studio: Studio, run_id: str, sample_id: str, epoch: int | None) -> str:
    """Return one sample in full; several classes have a row each."""
    item = studio.sample(run_id, sample_id, epoch)
    if item is None:
        return f"<p class='quiet'>{text.DETAIL_EMPTY}</p>"
    pictures, models = studio.pictures(run_id, item.sample), studio.model_names(run_id)
    name = sample_view.title(item)
    show = _one_class if len(pictures.classes) == 1 else _several_classes
    shown = show(pictures, name, models)
    history = score_history.html(
        studio.store.scores(run_id, sample_id=sample_id), num_samples=studio.store.samples(run_id, limit=1).total
    )
    return f"<h3>{escape(name)}</h3>{shown}{_key(pictures, models)}{markup.facts(sample_view.facts(item))}{history}"


def _one_class(pictures: SamplePictures, name: str, models: Models) -> str:
    only = pictures.classes[0]
    image: markup.Figure = (text.DETAIL_IMAGE, pictures.image, name)
    return markup.figures([image, *_figures(only, name, models)])


def _several_classes(pictures: SamplePictures, name: str, models: Models) -> str:
    """Return the image with all classes, then a row a class, in columns that stand below each other."""
    rows = [
        markup.figures(
            [
                (text.DETAIL_IMAGE, pictures.image, name),
                (text.DETAIL_OUTLINED, pictures.outlined, f"{text.DETAIL_OUTLINED}: {name}"),
            ],
            columns=5,
        )
    ]
    for index, one in enumerate(pictures.classes):
        title = markup.swatch(overlays.hex_colour(class_colour(index)), one.name)
        rows.append(f"<h4>{title}</h4>{markup.figures(_figures(one, f'{one.name}, {name}', models), columns=5)}")
    return "".join(rows)


def _figures(one: ClassPictures, name: str, models: Models) -> list[markup.Figure]:
    shown = [
        (text.DETAIL_MASK, one.mask),
        (text.DETAIL_TEACHER.format(**models), one.teacher),
        (text.DETAIL_STUDENT.format(**models), one.student),
        (text.DETAIL_DISPUTE, one.dispute),
        (sample_text.DETAIL_KL.format(full=overlays.FULL_KL), one.kl),
    ]
    return [(caption, picture, f"{caption}: {name}") for caption, picture in shown if picture is not None]


def _key(pictures: SamplePictures, models: Models) -> str:
    """Return what the colours of a dispute mean, and what is not stored (yet)."""
    predicted = [one.teacher is not None for one in pictures.classes]
    if not any(predicted):
        return markup.quiet(text.DETAIL_NOT_YET)
    colours = "".join(
        markup.swatch(overlays.hex_colour(colour), words.format(**models)) for colour, words in DISPUTE_KEY
    )
    first_only = "" if all(predicted) else markup.quiet(text.DETAIL_FIRST_CLASS)
    return f"<p class='key'>{text.DETAIL_DISPUTE}: {colours}</p>{first_only}"
