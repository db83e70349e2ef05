"""Stage: the student that sites deploy, as an ONNX bundle."""

from __future__ import annotations

from engine.stages.context import RunContext
from engine.stages.evaluation import ROWS_FILE
from engine.stages.files import read_json
from engine.types import EvaluationRow
from export.package import BundleContent, write_bundle

DEPLOYED = ("distilled_student", "fedavg_student")
"""The first of these that the method has made is deployed: sites only ever run TinySAM."""


class Export:
    """ONNX, manifest and model card of the deployed student, in ``bundle/``."""

    name = "export"
    describe = "TinySAM becomes an ONNX model that runs at the sites without PyTorch."

    def run(self, context: RunContext) -> None:
        """Write the bundle; parity with PyTorch is checked on the way."""
        role = next(name for name in DEPLOYED if context.model_path(name).is_file())
        rows = [EvaluationRow(**row) for row in read_json(context.run_dir / ROWS_FILE)]
        context.reporter.progress(0, 1, message=f"exporting {role}")
        manifest = write_bundle(
            context.run_dir / "bundle",
            context.load_model("student", role),
            content=BundleContent(
                name=context.config.name,
                role=role,
                task=context.federation.task,
                modality=context.federation.modality,
                classes=context.federation.classes,
                model=context.config.student,
                config=context.config,
                metrics=[row for row in rows if row.model == role],
                run_id=context.run_dir.name,
            ),
        )
        context.reporter.artefact("bundle", (context.run_dir / "bundle").relative_to(context.run_dir))
        difference = manifest.parity.max_abs_difference
        context.reporter.log("info", f"ONNX and PyTorch differ by at most {difference:.1e} in their logits.")
        context.reporter.progress(1, 1)
