"""The language model that the settings name."""

from __future__ import annotations

from engine.core.errors import DataEngineError
from engine.semantics.chat import Endpoint
from flows.workspace.workspace import Workspace


class NoEndpointError(DataEngineError):
    """The settings name no language model; the message says which ones to set."""


def endpoint_of(workspace: Workspace) -> Endpoint:
    """Return the endpoint of the settings.

    Raises:
        NoEndpointError: they name none.
    """
    settings = workspace.settings
    if not settings.llm_url or not settings.llm_model:
        raise NoEndpointError(
            "no language model is set: DATAENGINE_LLM_URL is the address of an endpoint like "
            "http://127.0.0.1:11434/v1, DATAENGINE_LLM_MODEL its model, and DATAENGINE_LLM_KEY its "
            "key, if it needs one"
        )
    key = settings.llm_key.get_secret_value() if settings.llm_key else ""
    return Endpoint(url=settings.llm_url, model=settings.llm_model, key=key)
