"""Tables of the runs store; ``engine.runs.database`` opens the file that holds them. Torch-free."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, MetaData, PrimaryKeyConstraint, String, Table, Text

SCHEMA_VERSION = 8
DATABASE_NAME = "studio.sqlite"

metadata = MetaData()


def _run_id() -> Column[str]:
    return Column("run_id", String, ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False)


schema_info = Table("schema_info", metadata, Column("version", Integer, primary_key=True))

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("status", String, nullable=False, index=True),
    Column("method", String, nullable=False),
    Column("config_json", Text, nullable=False),
    Column("config_hash", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("queued_at", Float),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("parent", String),
    Column("fork_stage", String),
    Column("error", Text),
    Column("stage", String),
    Column("attempt", Integer, nullable=False, default=0),
    Column("pid", Integer),
    Column("pid_started", Float),
    Column("host", String),
    Column("heartbeat_at", Float),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("started_by", String),
    # Set in rows that are no runs of their own but the work on a longer one: see engine.runs.extensions.
    Column("extends", String),
    # What people call it: see engine.runs.labels.
    Column("title", String),
    Column("tags", Text),
    Column("notes", Text),
)

stages = Table(
    "stages",
    metadata,
    _run_id(),
    Column("name", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("status", String, nullable=False, default="pending"),
    Column("step", Integer, nullable=False, default=0),
    Column("total", Integer, nullable=False, default=0),
    Column("message", String, nullable=False, default=""),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("wall_s", Float, nullable=False, default=0.0),
    Column("eta_s", Float),
    Column("planned_s", Float),
    Column("beside_s", Float, nullable=False, server_default="0"),
    Column("cpu_s", Float, nullable=False, server_default="0"),
    PrimaryKeyConstraint("run_id", "name"),
)

log = Table(
    "log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String, ForeignKey("runs.run_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("stage", String),
    Column("level", String, nullable=False),
    Column("text", Text, nullable=False),
)

# SQLite treats NULLs in a key as different from each other, so "no site" is the empty string in keys.
metrics = Table(
    "metrics",
    metadata,
    _run_id(),
    Column("stage", String, nullable=False),
    Column("name", String, nullable=False),
    Column("site", String, nullable=False, default=""),
    Column("step", Integer, nullable=False),
    Column("value", Float),  # NULL is how SQLite stores NaN
    PrimaryKeyConstraint("run_id", "stage", "name", "site", "step"),
    sqlite_with_rowid=False,
)

traffic = Table(
    "traffic",
    metadata,
    _run_id(),
    Column("stage", String, nullable=False),
    Column("site", String, nullable=False),
    Column("direction", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("round", Integer, nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    PrimaryKeyConstraint("run_id", "stage", "site", "direction", "kind", "round"),
    sqlite_with_rowid=False,
)

site_activity = Table(
    "site_activity",
    metadata,
    _run_id(),
    Column("stage", String, nullable=False),
    Column("site", String, nullable=False),
    Column("num_train", Integer, nullable=False),
    Column("num_validation", Integer, nullable=False),
    Column("num_test", Integer, nullable=False),
    Column("task", String, nullable=False),
    Column("state", String, nullable=False),
    Column("round", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("seen_at", Float),
    PrimaryKeyConstraint("run_id", "stage", "site"),
    sqlite_with_rowid=False,
)

site_failures = Table(
    "site_failures",
    metadata,
    _run_id(),
    Column("stage", String, nullable=False),
    Column("site", String, nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("code", String, nullable=False),
    Column("what", Text, nullable=False),
    Column("outcome", String, nullable=False),
    PrimaryKeyConstraint("run_id", "stage", "site", "round", "attempt"),
    sqlite_with_rowid=False,
)

samples = Table(
    "samples",
    metadata,
    _run_id(),
    Column("sample_id", String, nullable=False),
    Column("site", String, nullable=False),
    Column("index", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("source_mask", String, nullable=False),
    Column("mask_sharing", String, nullable=False),
    Column("image_path", String, nullable=False),
    Column("mask_path", String, nullable=False),
    Column("faithfulness_dice", Float),
    Column("teacher_path", String),
    Column("student_path", String),
    Column("generator", String, nullable=False, server_default=""),
    PrimaryKeyConstraint("run_id", "sample_id"),
    sqlite_with_rowid=False,
)

scores = Table(
    "scores",
    metadata,
    _run_id(),
    Column("epoch", Integer, nullable=False),
    Column("sample_id", String, nullable=False),
    Column("l_gt", Float),
    Column("l_kl", Float),
    Column("score", Float),
    Column("rank", Integer, nullable=False),
    Column("selected", Boolean, nullable=False),
    Column("fresh", Boolean, nullable=False),
    PrimaryKeyConstraint("run_id", "epoch", "sample_id"),
    sqlite_with_rowid=False,
)

evaluation = Table(
    "evaluation",
    metadata,
    _run_id(),
    Column("position", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("site", String, nullable=False),
    Column("split", String, nullable=False),
    Column("class_name", String, nullable=False),
    Column("num_images", Integer, nullable=False),
    Column("dice", Float),
    Column("dice_low", Float),
    Column("dice_high", Float),
    Column("iou", Float),
    Column("dice_five_thresholds", Float),
    Column("iou_five_thresholds", Float),
    Column("hd95_px", Float),
    Column("num_groups", Integer),
    Column("num_hd95", Integer),
    Column("num_missed", Integer),
    Column("num_spurious", Integer),
    Column("hd95_penalised_px", Float),
    PrimaryKeyConstraint("run_id", "model", "site", "split", "class_name"),
)

differences = Table(
    "differences",
    metadata,
    _run_id(),
    Column("position", Integer, nullable=False),
    Column("model", String, nullable=False),
    Column("baseline", String, nullable=False),
    Column("site", String, nullable=False),
    Column("split", String, nullable=False),
    Column("class_name", String, nullable=False),
    Column("num_images", Integer, nullable=False),
    Column("num_groups", Integer, nullable=False),
    Column("dice", Float),
    Column("dice_low", Float),
    Column("dice_high", Float),
    PrimaryKeyConstraint("run_id", "model", "baseline", "site", "split", "class_name"),
)

artefacts = Table(
    "artefacts",
    metadata,
    _run_id(),
    Column("path", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("created_at", Float, nullable=False),
    PrimaryKeyConstraint("run_id", "path"),
)


_COUNTS = ("num_groups", "num_hd95", "num_missed", "num_spurious")
UPGRADES: dict[int, tuple[str, ...]] = {
    1: ("ALTER TABLE samples ADD COLUMN generator VARCHAR NOT NULL DEFAULT ''",),
    2: (
        *(f"ALTER TABLE evaluation ADD COLUMN {column} INTEGER" for column in _COUNTS),
        "ALTER TABLE evaluation ADD COLUMN hd95_penalised_px FLOAT",
    ),
    3: ("ALTER TABLE runs ADD COLUMN started_by VARCHAR", "ALTER TABLE runs ADD COLUMN extends VARCHAR"),
    4: (),
    5: ("ALTER TABLE stages ADD COLUMN beside_s FLOAT NOT NULL DEFAULT 0",),
    6: ("ALTER TABLE stages ADD COLUMN cpu_s FLOAT NOT NULL DEFAULT 0",),
    7: (
        "ALTER TABLE runs ADD COLUMN title VARCHAR",
        "ALTER TABLE runs ADD COLUMN tags TEXT",
        "ALTER TABLE runs ADD COLUMN notes TEXT",
    ),
}
"""The statements that make schema n + 1 of schema n; tables that are missing then are made as they are today."""

RESULTS: dict[str, Table] = {
    table.name: table
    for table in (metrics, traffic, site_activity, site_failures, samples, scores, evaluation, differences, artefacts)
}
"""What stages record beside their own row; a table without a column ``stage`` is written by one stage alone."""
