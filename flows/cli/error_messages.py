"""Which errors are told in one line, because the line says what to do."""

from __future__ import annotations


def told_in_a_line(error: Exception) -> str | None:
    """What the user is told: of the domain errors of every layer their message, of errors of the
    operating system the file and what to do. None: it is a bug and keeps its traceback."""
    from storage.os_errors import sentence_of

    if isinstance(error, OSError):
        return sentence_of(error)
    return str(error) if _is_domains(error) else None


def _is_domains(error: Exception) -> bool:
    from engine.sam.checkpoint import CheckpointError
    from engine.training.trainer import TrainingError
    from flows.data.import_model import ImportRefusedError
    from flows.demo.demo_workspace import NotTheDemoError
    from flows.prefect_api.client import UnreachableError
    from flows.prefect_api.temporary_server import OrchestratorError
    from flows.release.release import NothingToReleaseError
    from flows.services.supervisor import ServiceError
    from flows.stages.ray_shards import ScaleOutError
    from flows.stages.rounds import NoImagesError
    from flows.training.scores import NothingToEvaluateError
    from flows.workspace.retry import OutageError
    from flows.workspace.run_lock import BusyError
    from storage.catalog import CatalogError
    from storage.downloads import DownloadError
    from storage.formats.coco import BadAnnotationsError
    from storage.objects import StorageError
    from storage.outputs import OutputExistsError

    return isinstance(
        error,
        (
            BadAnnotationsError,
            BusyError,
            CatalogError,
            CheckpointError,
            DownloadError,
            ImportRefusedError,
            NoImagesError,
            NotTheDemoError,
            NothingToEvaluateError,
            NothingToReleaseError,
            OrchestratorError,
            OutageError,
            OutputExistsError,
            ScaleOutError,
            ServiceError,
            StorageError,
            TrainingError,
            UnreachableError,
        ),
    )
