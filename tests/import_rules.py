"""Who may import whom, and who brings in no torch: the tables that ``architecture.py`` holds the imports to."""

from __future__ import annotations

CONFIG = (
    "engine.config",
    "engine.config_faults",
    "engine.config_fields",
    "engine.config_distillation",
    "engine.config_federation",
    "engine.config_generators",
    "engine.config_privacy",
    "engine.config_samfed",
    "engine.config_tuning",
    "engine.config_keys",
    "engine.config_text",
)
BASE = (
    "engine.version",
    "engine.types",
    "engine.errors",
    *CONFIG,
    "engine.seeding",
    "engine.accounting",
    "engine.system_randomness",
)
CATALOGUE = "engine.methods.catalogue"
MASK_DICE = "engine.evaluation.mask_dice"
PREDICTION = tuple(
    f"export.{part}"
    for part in (
        "runtime",
        "results",
        "manifest",
        "card",
        "appearance",
        "foreign",
        "levels",
        "looks",
        "clicks",
        "prompting",
    )
)
LOOKS = tuple(
    f"engine.data.{part}" for part in ("readers", "transforms", "tiling", "appearance", "modalities", "prompt_maps")
)
VOLUMES = tuple(f"engine.data.{n}" for n in (
    "readers", "volumes", "archives", "orientation", "identifiers", "volume_cache", "budget",
))  # fmt: skip
SURVEY = tuple(
    f"engine.data.{name}"
    for name in ("survey", "impressions", "apart", "problems", "found_folders", "dataset_archives", "prepare")
)
"""What the form of a new run shows, and makes, of the images, all of which lie on the server."""
WHOLE_VOLUMES = ("export.volumes", "export.cases", "export.pairs", "export.outputs", "export.foreign_volumes")
RUN_RECORDS = tuple(
    f"engine.runs.{name}"
    for name in (
        "alerts",
        "archive",
        "command",
        "waiting",
        "archive_export",
        "archive_import",
        "store",
        "events",
        "gates",
        "generator_checks",
        "lifecycle",
        "records",
        "sites",
        "results",
        "schema",
        "scored_pool",
        "identity",
        "outputs",
        "report",
        "database",
        "extensions",
        "folders",
        "join_results",
        "joins",
        "processes",
        "queue",
    )
)
METHOD_PARTS = ("engine.federation", "engine.generation", "engine.distillation", "engine.evaluation")
BORDER = (
    "engine.federation.codecs",
    "engine.federation.tasks",
    "engine.federation.payload",
    "engine.federation.descriptions",
    "engine.federation.privacy",
    "engine.federation.release",
)
"""What both sides of a site's border know."""

ALLOWED: dict[str, tuple[str, ...]] = {
    # importer: what it may import of ours, besides itself and its own subpackages
    "engine.errors": (),
    "engine.types": (),
    "engine.seeding": (),
    "engine.accounting": (),
    "engine.system_randomness": (),
    "engine.config": (
        "engine.errors",
        "engine.config_faults",
        "engine.config_fields",
        "engine.config_distillation",
        "engine.config_federation",
        "engine.config_generators",
        "engine.config_privacy",
        "engine.config_samfed",
        "engine.config_tuning",
        CATALOGUE,
    ),
    "engine.config_faults": ("engine.errors",),
    "engine.config_fields": (),
    "engine.config_distillation": ("engine.config_fields",),
    "engine.config_federation": ("engine.config_fields",),
    "engine.config_generators": ("engine.config_fields",),
    "engine.config_privacy": ("engine.config_fields", "engine.config_federation"),
    "engine.config_samfed": ("engine.config_fields",),
    "engine.config_tuning": ("engine.config_fields",),
    "engine.config_keys": ("engine.config", "engine.config_fields", "engine.config_generators", CATALOGUE),
    "engine.config_text": ("engine.config", "engine.config_fields", "engine.config_keys", "engine.errors"),
    "engine.version": ("engine.errors",),
    "engine.data": BASE,
    "engine.models": BASE,
    **{part: (*BASE, "engine.models", "engine.data") for part in METHOD_PARTS},
    "engine.evaluation.tables": ("engine.types", CATALOGUE),
    "engine.federation.backends.local": (
        *BASE,
        "engine.federation",
        "engine.data",
        "engine.models",
        "engine.site",
        "engine.runs.checkpoint",
    ),
    **{
        f"engine.federation.backends.{name}": (
            *BASE,
            "engine.federation",
            "engine.data",
            "engine.site",
            CATALOGUE,
            "engine.runs.checkpoint",
            "engine.runs.identity",
        )
        for name in ("fixed_test", "site_programs", "side_worker", "ray_sites", "ray_worker")
    },
    "engine.federation.connect": (
        *BASE,
        "engine.federation",
        "engine.data",
        "engine.models",
        "engine.site",
        "engine.runs.checkpoint",
        CATALOGUE,
        "engine.deployment.federations",
        "engine.deployment.server",
    ),
    "engine.site": (
        *BASE,
        *BORDER,
        "engine.data",
        "engine.models",
        "engine.generation",
        "engine.distillation",
        "engine.evaluation",
        "engine.methods.catalogue",
        "engine.runs.checkpoint",
        "engine.runs.pace",
    ),
    "engine.evaluation.spread": ("engine.types",),
    "engine.site.node": (*BASE, "engine.federation", "engine.site.disclosure"),
    "engine.site.side_work": (*BASE, "engine.federation"),
    "engine.site.deployed": (
        *BASE,
        *BORDER,
        "engine.data",
        "engine.methods.catalogue",
        "engine.site",
        CATALOGUE,
        "engine.models.assets",
        "engine.models.roles",
        "engine.runs.checkpoint",
        "engine.runs.identity",
    ),
    "engine.pretraining": (*BASE, "engine.generation", "engine.models", "engine.data", "engine.runs.checkpoint"),
    "engine.planning": (
        *BASE,
        CATALOGUE,
        "engine.methods.model_choice",
        "engine.data",
        "engine.federation.codecs",
        "engine.federation.connect",
        "engine.federation.descriptions",
        "engine.federation.side_by_side",
        "engine.models.assets",
        "engine.models.sharing",
        "engine.models.tuned_keys",
        "engine.runs.report",
        "engine.runs.store",
    ),
    "engine.deployment": (*BASE, "engine.federation", "engine.site"),
    "engine.stages": (
        *BASE,
        *METHOD_PARTS,
        CATALOGUE,
        "engine.models",
        "engine.data",
        "engine.runs.checkpoint",
        "engine.runs.earlier",
        "engine.runs.gates",
        "engine.runs.generator_checks",
        "engine.runs.pace",
        "export.onnx_export",
        "export.parity",
        "export.package",
        "export.variants",
        "export.appearance",
        "export.manifest",
    ),
    "engine.experiments": (
        *BASE,
        CATALOGUE,
        "engine.runs",
        "engine.planning",
        "engine.evaluation.bootstrap",
        "engine.evaluation.spread",
        "engine.federation.connect",
        "engine.federation.descriptions",
        "engine.federation.release",
        "export.runtime",
    ),
    "engine.report": (
        *BASE,
        CATALOGUE,
        "engine.runs",
        "engine.experiments",
        "engine.evaluation.spread",
        "engine.evaluation.tables",
        "engine.federation.task_titles",
        "export.manifest",
    ),
    "engine.methods": (),
    CATALOGUE: ("engine.errors", "engine.config_keys", "engine.methods.model_choice", "engine.methods.overlay"),
    "engine.runs": (*BASE, "engine.runs", CATALOGUE, "engine.federation.descriptions"),
    "engine.runs.archive_import": (*BASE, "engine.runs", CATALOGUE, "engine.data.zip_lists"),
    "engine.runs.worker": (*BASE, "engine.runs", CATALOGUE, "engine.stages"),
    "engine.cli": ("engine", "export"),
    "engine.__main__": ("engine.cli",),
    "export": (*BASE, "engine.models", "engine.data.prompt_maps", "export"),
    **{name: (*BASE, *LOOKS, *PREDICTION) for name in PREDICTION},
    "export.card": ("engine.types", CATALOGUE, "engine.evaluation.tables", "export.manifest"),
    **{name: (*BASE, "engine.data", MASK_DICE, *PREDICTION, *WHOLE_VOLUMES) for name in WHOLE_VOLUMES},
    "app": (
        *BASE,
        CATALOGUE,
        *RUN_RECORDS,
        "engine.planning",
        "engine.experiments",
        "engine.report",
        "engine.federation.release",
        "engine.federation.task_titles",
        "engine.federation.descriptions",
        "engine.deployment.federations",
        "engine.deployment.server",
        *SURVEY,
        *(VOLUMES + WHOLE_VOLUMES),
        "engine.models.assets",
        # numpy only; the page offers phantoms as example images
        "engine.data.phantoms",
        "engine.evaluation.tables",
        "engine.evaluation.spread",
        "engine.data.modalities",
        "engine.data.tiling",
        "engine.distillation.choice",
        *PREDICTION,
    ),
    "bench": ("engine", "export", "bench"),
}
"""The longest name that an importer's dotted name starts with decides. Nothing lists app or tests."""

TORCH_FREE = (
    "app", "engine.accounting", "engine.config", "engine.config_fields", "engine.config_keys", "engine.config_text",
    "engine.methods",
    "engine.experiments", "engine.models.sharing", "engine.models.tuned_keys", "engine.planning",
    "engine.evaluation.tables", "engine.evaluation.spread", MASK_DICE, "engine.distillation.choice", "engine.report",
    *PREDICTION,
    *WHOLE_VOLUMES, *VOLUMES, *SURVEY,
    "engine.federation.codecs",
    *RUN_RECORDS,
)  # fmt: skip
"""Modules (and subpackages) that must not bring in torch, directly or through what they import."""
