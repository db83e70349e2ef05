"""What a run produced: curves, traffic, samples, scores, results table, artefacts and log. Torch-free.

Every row has a natural key and writing it again replaces it, so a resumed run that repeats a step leaves the same rows
as one that was never stopped. Only the log grows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from engine.errors import one_line
from engine.runs import schema
from engine.runs.database import database_errors, writing
from engine.runs.records import ArtefactRecord, LogLine, MetricSeries, Page, SampleOrder, ScoredSample, TrafficTotal
from engine.types import EvaluationRow, ModelDifference, SampleScore, SyntheticSample, Traffic

Rows = list[dict[str, Any]]
_SAMPLE_PATHS = ("image_path", "mask_path", "teacher_path", "student_path")


def upsert(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Insert ``rows``; a row whose primary key is there already replaces it."""
    if not rows:
        return
    statement = insert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=table.primary_key, set_=changed), rows)


def metric_row(stage: str, name: str, value: float, *, step: int, site: str | None) -> dict[str, Any]:
    """Return a row of the metrics table without its run."""
    return {"stage": stage, "name": name, "site": site or "", "step": step, "value": float(value)}


def traffic_row(stage: str, record: Traffic) -> dict[str, Any]:
    """Return a row of the traffic table without its run."""
    return {"stage": stage, **asdict(record)}


def sample_row(record: SyntheticSample) -> dict[str, Any]:
    """Return a row of the samples table without its run."""
    row = asdict(record)
    return row | {key: None if row[key] is None else Path(row[key]).as_posix() for key in _SAMPLE_PATHS}


def score_row(record: SampleScore) -> dict[str, Any]:
    """Return a row of the scores table without its run."""
    return asdict(record)


def add_log_line(connection: sa.Connection, run_id: str, level: str, text: str, *, stage: str | None = None) -> None:
    """Append one line for people, in the transaction of what it tells."""
    row = {"run_id": run_id, "at": time.time(), "stage": stage, "level": level, "text": text}
    connection.execute(schema.log.insert(), row)


class ResultStore:
    """Reads and writes of a run's results. ``database`` is the engine that ``schema.open_database`` gives."""

    def __init__(self, database: sa.Engine, path: Path) -> None:
        self._database = database
        self._path = path

    def write(
        self,
        run_id: str,
        *,
        metrics: Rows | None = None,
        traffic: Rows | None = None,
        site_activity: Rows | None = None,
        site_failures: Rows | None = None,
        samples: Rows | None = None,
        scores: Rows | None = None,
    ) -> None:
        """Write rows of several tables in one transaction (rows as the ``…_row`` functions give them)."""
        batches = (
            (schema.metrics, metrics),
            (schema.traffic, traffic),
            (schema.site_activity, site_activity),
            (schema.site_failures, site_failures),
            (schema.samples, samples),
            (schema.scores, scores),
        )
        with self._writing() as connection:
            for table, rows in batches:
                upsert(connection, table, [{"run_id": run_id, **row} for row in rows or ()])

    def write_evaluation(self, run_id: str, rows: Sequence[EvaluationRow]) -> None:
        """Write lines of the results table; they are read back in the order of first writing."""
        self._append(schema.evaluation, run_id, [asdict(row) for row in rows])

    def write_differences(self, run_id: str, rows: Sequence[ModelDifference]) -> None:
        """Write differences between models; they are read back in the order of first writing."""
        self._append(schema.differences, run_id, [asdict(row) for row in rows])

    def _append(self, table: sa.Table, run_id: str, rows: Rows) -> None:
        with self._writing() as connection:
            count = sa.select(sa.func.coalesce(sa.func.max(table.c.position), -1)).where(table.c.run_id == run_id)
            first = (connection.scalar(count) or 0) + 1
            upsert(connection, table, [{"run_id": run_id, "position": first + i, **row} for i, row in enumerate(rows)])

    def write_artefact(self, run_id: str, stage: str, kind: str, path: str) -> None:
        """Record a file or folder of the run; ``path`` is relative to the run's folder, with forward slashes."""
        row = {"run_id": run_id, "path": path, "kind": kind, "stage": stage, "created_at": time.time()}
        with self._writing() as connection:
            upsert(connection, schema.artefacts, [row])

    def write_log(self, run_id: str, level: str, text: str, *, stage: str | None = None) -> None:
        """Append one line for people."""
        with self._writing() as connection:
            add_log_line(connection, run_id, level, text, stage=stage)

    def events(self, run_id: str, *, after_id: int = 0, limit: int = 500) -> tuple[LogLine, ...]:
        """Return the run's newest ``limit`` log lines whose id is above ``after_id``, oldest first."""
        table = schema.log
        query = sa.select(table.c.id, table.c.at, table.c.stage, table.c.level, table.c.text)
        query = query.where(table.c.run_id == run_id, table.c.id > after_id).order_by(table.c.id.desc()).limit(limit)
        rows = reversed(self._rows(query))
        return tuple(LogLine(row.id, row.at, row.stage, row.level, one_line(row.text)) for row in rows)

    def metrics(
        self, run_id: str, *, stage: str | None = None, name: str | None = None, site: str | None = None
    ) -> tuple[MetricSeries, ...]:
        """Return the run's curves, ordered by stage, name and site; the arguments narrow them."""
        table = schema.metrics
        query = sa.select(table.c.stage, table.c.name, table.c.site, table.c.step, table.c.value)
        query = query.where(table.c.run_id == run_id)
        for column, wanted in ((table.c.stage, stage), (table.c.name, name), (table.c.site, site)):
            query = query if wanted is None else query.where(column == wanted)
        rows = self._rows(query.order_by(table.c.stage, table.c.name, table.c.site, table.c.step))
        series = []
        for (of_stage, of_name, of_site), points in groupby(rows, key=lambda row: tuple(row[:3])):
            steps, values = zip(*((row.step, _number(row.value)) for row in points), strict=True)
            series.append(MetricSeries(of_stage, of_name, of_site or None, steps, values))
        return tuple(series)

    def traffic(self, run_id: str) -> tuple[TrafficTotal, ...]:
        """Return the bytes of every site, direction, kind and stage of the run."""
        table = schema.traffic
        keys = (table.c.site, table.c.direction, table.c.kind, table.c.stage)
        query = sa.select(*keys, sa.func.sum(table.c.payload_bytes), sa.func.count())
        query = query.where(table.c.run_id == run_id).group_by(*keys).order_by(*keys)
        return tuple(TrafficTotal(*tuple(row)) for row in self._rows(query))

    def epochs(self, run_id: str) -> tuple[int, ...]:
        """Return the distillation epochs that have scores, ascending."""
        table = schema.scores
        query = sa.select(table.c.epoch).where(table.c.run_id == run_id).distinct().order_by(table.c.epoch)
        return tuple(row.epoch for row in self._rows(query))

    def sample_sites(self, run_id: str) -> tuple[str, ...]:
        """Return the sites whose generators have drawn samples of the run, ascending."""
        table = schema.samples
        query = sa.select(table.c.site).where(table.c.run_id == run_id).distinct().order_by(table.c.site)
        return tuple(row.site for row in self._rows(query))

    def samples(
        self,
        run_id: str,
        *,
        epoch: int | None = None,
        site: str | None = None,
        selected: bool | None = None,
        order: SampleOrder = "index",
        descending: bool = False,
        offset: int = 0,
        limit: int = 50,
    ) -> Page[ScoredSample]:
        """Return one page of the generated pairs, each with its score at ``epoch`` (the latest when left out).

        ``selected`` keeps those that were (or were not) trained on in that epoch; pairs without the value that orders
        them come last. Ties keep the order of site and index, so pages never overlap.
        """
        if epoch is None:
            scored_epochs = self.epochs(run_id)
            epoch = scored_epochs[-1] if scored_epochs else -1
        s, c = schema.samples, schema.scores
        joined = s.outerjoin(c, sa.and_(c.c.run_id == s.c.run_id, c.c.sample_id == s.c.sample_id, c.c.epoch == epoch))
        conditions = [s.c.run_id == run_id]
        if site is not None:
            conditions.append(s.c.site == site)
        if selected is not None:
            conditions.append(c.c.selected.is_(selected))
        key = {"index": s.c.site, "faithfulness": s.c.faithfulness_dice}.get(order)
        key = c.c[order] if key is None else key
        query = sa.select(*s.c, *(c.c[name].label(f"score_{name}") for name in _names(SampleScore))).select_from(joined)
        query = query.where(*conditions).order_by(
            key.is_(None), key.desc() if descending else key, s.c.site, s.c.index, s.c.sample_id
        )
        total = self._rows(sa.select(sa.func.count()).select_from(joined).where(*conditions))[0][0]
        rows = self._rows(query.offset(offset).limit(limit))
        return Page(tuple(_scored(row._mapping) for row in rows), total)

    def sample(self, run_id: str, sample_id: str) -> SyntheticSample | None:
        """Return one generated pair, or ``None`` where the run has no such pair."""
        table = schema.samples
        rows = self._rows(sa.select(table).where(table.c.run_id == run_id, table.c.sample_id == sample_id))
        return _sample(rows[0]._mapping) if rows else None

    def samples_named(self, run_id: str, sample_ids: Sequence[str]) -> tuple[SyntheticSample, ...]:
        """Return the pairs of these ids in the order of the ids; those that the run does not have are left out."""
        table = schema.samples
        query = sa.select(table).where(table.c.run_id == run_id, table.c.sample_id.in_(sample_ids))
        found = {row.sample_id: _sample(row._mapping) for row in self._rows(query)}
        return tuple(found[name] for name in sample_ids if name in found)

    def scores(self, run_id: str, *, epoch: int | None = None, sample_id: str | None = None) -> tuple[SampleScore, ...]:
        """Return learnability scores by epoch and rank: all of them, one epoch's, or one pair's history."""
        table = schema.scores
        query = sa.select(table).where(table.c.run_id == run_id).order_by(table.c.epoch, table.c.rank)
        query = query if epoch is None else query.where(table.c.epoch == epoch)
        if sample_id is not None:
            # With the epochs named the primary key finds the rows; without, those of every sample are gone through.
            epochs = self.epochs(run_id) if epoch is None else (epoch,)
            query = query.where(table.c.sample_id == sample_id, table.c.epoch.in_(epochs))
        return tuple(_score(row._mapping) for row in self._rows(query))

    def evaluation(self, run_id: str) -> tuple[EvaluationRow, ...]:
        """Return the results table in the order in which it was written."""
        table = schema.evaluation
        rows = self._rows(sa.select(table).where(table.c.run_id == run_id).order_by(table.c.position))
        return tuple(_evaluation(row._mapping) for row in rows)

    def differences(self, run_id: str) -> tuple[ModelDifference, ...]:
        """Return the differences between models in the order in which they were written."""
        table = schema.differences
        rows = self._rows(sa.select(table).where(table.c.run_id == run_id).order_by(table.c.position))
        names = list(_names(ModelDifference))
        return tuple(ModelDifference(**{name: row._mapping[name] for name in names}) for row in rows)

    def artefacts(self, run_id: str, *, kind: str | None = None) -> tuple[ArtefactRecord, ...]:
        """Return the files and folders that the run made, oldest first."""
        table = schema.artefacts
        query = sa.select(table.c.kind, table.c.path, table.c.stage, table.c.created_at).where(table.c.run_id == run_id)
        query = query if kind is None else query.where(table.c.kind == kind)
        return tuple(
            ArtefactRecord(*tuple(row)) for row in self._rows(query.order_by(table.c.created_at, table.c.path))
        )

    def all_artefacts(self, kind: str) -> dict[str, tuple[str, ...]]:
        """Return the paths of every run's files and folders of a kind, oldest first, by the run's id: in one query."""
        table = schema.artefacts
        query = sa.select(table.c.run_id, table.c.path).where(table.c.kind == kind)
        found: dict[str, tuple[str, ...]] = {}
        for run_id, path in map(tuple, self._rows(query.order_by(table.c.created_at, table.c.path))):
            found[run_id] = (*found.get(run_id, ()), path)
        return found

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Open a write transaction; SQLite's refusals become ``UserError``."""
        with database_errors(self._path), writing(self._database) as connection:
            yield connection

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Return what a query finds; SQLite's refusals become ``UserError``."""
        return self._rows(query)

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with database_errors(self._path), self._database.connect() as connection, connection.begin():
            return connection.execute(query).all()


def _names(record: type) -> Iterable[str]:
    return (field.name for field in fields(record))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _sample(row: Any) -> SyntheticSample:
    values = {name: row[name] for name in _names(SyntheticSample)}
    return SyntheticSample(**values | {k: None if values[k] is None else Path(values[k]) for k in _SAMPLE_PATHS})


def _score(row: Any, *, prefix: str = "") -> SampleScore:
    values = {name: row[prefix + name] for name in _names(SampleScore)}
    return SampleScore(**values | {name: _number(values[name]) for name in ("l_gt", "l_kl", "score")})


def _scored(row: Any) -> ScoredSample:
    return ScoredSample(_sample(row), None if row["score_epoch"] is None else _score(row, prefix="score_"))


def _evaluation(row: Any) -> EvaluationRow:
    values = {name: row[name] for name in _names(EvaluationRow)}
    measured = ("dice", "iou", "dice_five_thresholds", "iou_five_thresholds")
    return EvaluationRow(**values | {name: _number(values[name]) for name in measured})
