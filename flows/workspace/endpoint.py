"""The models that the settings name: a language model, and one that paints."""

from __future__ import annotations

from engine.core.errors import DataEngineError
from engine.semantics.chat import Chat, Endpoint, EndpointChat
from flows.workspace.workspace import Workspace

IN_PROCESS, IN_PROCESS_PAINTER = "transformers", "diffusers"
"""In place of a URL: the model runs in this process."""


class NoEndpointError(DataEngineError):
    """The settings name no language model; the message says which ones to set."""


def endpoint_of(workspace: Workspace) -> Endpoint:
    """Return the language model's endpoint of the settings.

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


def chat_of(workspace: Workspace) -> Chat:
    """Return the language model of the settings: behind an endpoint, or in this process.

    Raises:
        NoEndpointError: they name none.
        ChatError: it cannot be loaded.
    """
    settings = workspace.settings
    if settings.llm_url == IN_PROCESS and settings.llm_model:
        from engine.semantics.local_chat import load_local_chat

        return load_local_chat(settings.llm_model, workspace.device())
    return EndpointChat(endpoint_of(workspace))


def has_chat(workspace: Workspace) -> bool:
    """Whether the settings name a language model."""
    return bool(workspace.settings.llm_url and workspace.settings.llm_model)
