"""One use case a module: run, plan, report, doctor, init."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.runner.commands.doctor import diagnose, known_dtype, model_to_measure
    from thothy_batch.runner.commands.doctor_document import (
        DoctorDocument,
        GpuDocument,
        MeasuredModelDocument,
    )
    from thothy_batch.runner.commands.init import InitResult, init_folder
    from thothy_batch.runner.commands.plan import plan_manifest
    from thothy_batch.runner.commands.plan_types import (
        LengthsDocument,
        PlanDocument,
        PlanEngine,
        PlanEstimate,
        PlanJob,
        PlanSharing,
        RefusedEntry,
        WindowGain,
    )
    from thothy_batch.runner.commands.preparation import PreparationDocument, prepare
    from thothy_batch.runner.commands.report import export_artifacts, report_document, write_page
    from thothy_batch.runner.commands.run import run_manifest

__all__ = [
    "DoctorDocument",
    "GpuDocument",
    "InitResult",
    "LengthsDocument",
    "MeasuredModelDocument",
    "PlanDocument",
    "PlanEngine",
    "PlanEstimate",
    "PlanJob",
    "PlanSharing",
    "PreparationDocument",
    "RefusedEntry",
    "WindowGain",
    "diagnose",
    "export_artifacts",
    "init_folder",
    "known_dtype",
    "model_to_measure",
    "plan_manifest",
    "prepare",
    "report_document",
    "run_manifest",
    "write_page",
]

__getattr__ = lazy_face(
    __name__,
    {
        "doctor": (
            "diagnose",
            "known_dtype",
            "model_to_measure",
        ),
        "doctor_document": (
            "DoctorDocument",
            "GpuDocument",
            "MeasuredModelDocument",
        ),
        "init": (
            "InitResult",
            "init_folder",
        ),
        "plan": ("plan_manifest",),
        "plan_types": (
            "LengthsDocument",
            "PlanDocument",
            "PlanEngine",
            "PlanEstimate",
            "PlanJob",
            "PlanSharing",
            "RefusedEntry",
            "WindowGain",
        ),
        "preparation": (
            "PreparationDocument",
            "prepare",
        ),
        "report": (
            "export_artifacts",
            "report_document",
            "write_page",
        ),
        "run": ("run_manifest",),
    },
)
