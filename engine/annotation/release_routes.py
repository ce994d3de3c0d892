"""The HTTP interface of finished releases; see `routes`."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from engine.annotation.access import Rate
from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.release_files import HEADERS, MEDIA, ReleaseFiles
from engine.annotation.routes import Service, Someone
from engine.annotation.schemas import PLAIN

DOWNLOADS = Rate(burst=10, a_second=0.2, name="download")

router = APIRouter(route_class=GuardedRoute)
Name = Annotated[str, Path(max_length=200, pattern=PLAIN)]


@router.get("/{name}/{file}", response_class=FileResponse)
@admits("reviewer", DOWNLOADS)
def release_file(name: Name, file: Name, visitor: Someone, service: Service) -> FileResponse:
    """A file of a finished release: `report.html`, `instances.json` (COCO) or `sa1b.tar`."""
    files = ReleaseFiles(service.catalog, service.objects)
    path, shown = files.fetch(visitor.annotator, name, file)
    return FileResponse(
        path,
        media_type=MEDIA[FilePath(file).suffix],
        filename=shown,
        content_disposition_type="inline" if file.endswith(".html") else "attachment",
        headers=HEADERS,
        background=BackgroundTask(path.unlink, missing_ok=True),
    )
