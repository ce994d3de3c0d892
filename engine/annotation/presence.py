"""Whether work can wait for an annotator."""

from __future__ import annotations

from datetime import timedelta

from storage.annotation_queue import AnnotationQueue
from storage.catalog import Annotator, AnnotatorKind, Catalog

AWAY_DAYS = 14.0
"""Days after the last submission of somebody who is not signed in. A sign-in lasts as long."""


def is_away(catalog: Catalog, queue: AnnotationQueue, person: Annotator) -> bool:
    """Whether no work may wait for this annotator: a simulation, a person who is disabled or whose
    name was erased, or who is not signed in and has submitted nothing for AWAY_DAYS. The only
    person of a catalog needs no sign-in and is never away."""
    if person.kind != AnnotatorKind.PERSON or person.disabled_at is not None:
        return True
    if catalog.annotators.is_erased(person.id):
        return True
    if catalog.sign_ins.has(person.id) or not catalog.annotators.has_people(besides=person.name):
        return False
    return not queue.worked_since(person.id, catalog.now() - timedelta(days=AWAY_DAYS))
