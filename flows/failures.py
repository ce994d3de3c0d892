"""Which errors are told in one line because their message says what to do."""

from __future__ import annotations


def is_users(error: Exception) -> bool:
    """True for the domain errors of every layer; anything else is a bug and keeps its traceback."""
    from engine.sam.checkpoint import CheckpointError
    from engine.training.trainer import TrainingError
    from flows.demo_setup import NotTheDemoError
    from flows.evaluating import NothingToEvaluateError
    from flows.importing import ImportRefusedError
    from flows.orchestrator import UnreachableError
    from flows.patience import OutageError
    from flows.production import ServiceError
    from flows.release import NothingToReleaseError
    from flows.rounds import NoImagesError
    from flows.scaling import ScaleOutError
    from flows.temporary_server import OrchestratorError
    from flows.turns import BusyError
    from storage.catalog import CatalogError
    from storage.downloads import DownloadError
    from storage.formats.coco import BadAnnotationsError
    from storage.objects import StorageError

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
            ScaleOutError,
            ServiceError,
            StorageError,
            TrainingError,
            UnreachableError,
        ),
    )
