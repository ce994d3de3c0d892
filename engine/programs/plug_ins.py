"""The modules' models from outside: a language model that sees pictures, and one that paints."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import httpx
import numpy as np

from engine.programs.errors import ProgramError
from engine.semantics.chat import Chat, Endpoint, open_chat

PAINTED_SIDE = 1024
"""Of the square pictures that are painted, in pixels."""
LARGEST_PICTURE = 50_000_000
"""Of a painted picture's answer, in bytes."""
Repaint = Callable[[np.ndarray, np.ndarray, str], np.ndarray]


def answers_of(chat: Chat) -> Callable[[np.ndarray, str], str]:
    """Return Vqa's plug-in."""
    return lambda picture, question: chat.ask([picture, question], max_tokens=64).text


def lists_of(chat: Chat) -> Callable[[str, int], list[str]]:
    """Return List's plug-in: one name a line, or with commas between them."""

    def listed(query: str, most: int) -> list[str]:
        said = chat.ask(f"List {query}: at most {most}, one a line, only the names.").text
        return parse_list(said)[:most]

    return listed


def parse_list(text: str) -> list[str]:
    """Return the names of a model's answer, whose lines may be numbered or have bullets."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().endswith(":")]
    parts = lines[0].split(",") if len(lines) == 1 else lines
    found: dict[str, None] = {}
    for part in parts:
        plain = re.sub(r"^\s*(?:[-*+•]|\(?\d{1,3}[.):])\s+", "", part).strip(" \t.*\"'`")
        if plain and len(plain) <= 100 and plain.isprintable():
            found[plain] = None
    return list(found)


def endpoint_repaint(endpoint: Endpoint) -> Repaint:
    """Return Replace's plug-in behind OpenAI's `POST /images/edits`."""
    address = endpoint.url.rstrip("/") + "/images/edits"

    def repaint(picture_HWC: np.ndarray, inside_HW: np.ndarray, prompt: str) -> np.ndarray:
        square, mask = _square(picture_HWC, inside_HW)
        clear = np.dstack([square, np.where(mask, 0, 255).astype(np.uint8)])  # clear is painted
        files = {
            "image": ("image.png", _png(square), "image/png"),
            "mask": ("mask.png", _png(clear), "image/png"),
        }
        side = f"{PAINTED_SIDE}x{PAINTED_SIDE}"
        fields = {"model": endpoint.model, "prompt": prompt, "n": "1", "size": side}
        with open_chat(endpoint) as client:
            try:
                answer = client.post(
                    address, data=fields, files=files, timeout=endpoint.limit_s
                ).raise_for_status()
                if len(answer.content) > LARGEST_PICTURE:
                    raise ProgramError(f"{endpoint.host} answers with too large a picture")
                coded = base64.b64decode(json.loads(answer.content)["data"][0]["b64_json"])
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                raise ProgramError(f"{endpoint.host} paints nothing: {str(error)[:200]}") from error
        painted = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
        if painted is None:
            raise ProgramError(f"{endpoint.host} paints something that is no picture")
        return _unsquare(np.asarray(painted)[:, :, ::-1], picture_HWC)

    return repaint


def local_repaint(name: str, device: str) -> Repaint:
    """Return Replace's plug-in of a pipeline that diffusers loads in this process.

    Raises:
        ProgramError: the package `diffusers` is missing, or the model cannot be had.
    """

    def repaint(picture_HWC: np.ndarray, inside_HW: np.ndarray, prompt: str) -> np.ndarray:
        import torch
        from PIL import Image

        square, mask = _square(picture_HWC, inside_HW)
        pipeline = _pipeline(name, device)
        painted = pipeline(
            prompt=prompt,
            image=Image.fromarray(square),
            mask_image=Image.fromarray(mask.astype(np.uint8) * 255),
            height=PAINTED_SIDE,
            width=PAINTED_SIDE,
            generator=torch.Generator(device).manual_seed(0),  # the same again after a restart
        ).images[0]
        return _unsquare(np.asarray(painted.convert("RGB")), picture_HWC)

    return repaint


@lru_cache(maxsize=1)
def _pipeline(name: str, device: str) -> Any:
    try:
        from diffusers import AutoPipelineForInpainting
    except ImportError as error:
        raise ProgramError(
            "a model that paints in this process needs a package that is missing: pip install "
            "diffusers transformers; or set DATAENGINE_PAINT_URL to an endpoint"
        ) from error
    try:
        found = AutoPipelineForInpainting.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ProgramError(f"the model {name!r} cannot be loaded: {str(error)[:300]}") from error
    return found.to(device)


def _square(picture_HWC: np.ndarray, inside_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return picture and mask, stretched to the square that models paint."""
    size = (PAINTED_SIDE, PAINTED_SIDE)
    square = cv2.resize(np.ascontiguousarray(picture_HWC), size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(inside_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(square), np.asarray(mask, bool)


def _unsquare(painted_SSC: np.ndarray, like_HWC: np.ndarray) -> np.ndarray:
    height, width = like_HWC.shape[:2]
    found = cv2.resize(
        np.ascontiguousarray(painted_SSC), (width, height), interpolation=cv2.INTER_AREA
    )
    return np.asarray(found, np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    """Return RGB or RGBA uint8 as a PNG."""
    order = [2, 1, 0, 3][: pixels.shape[2]]
    _, coded = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, order]))
    return coded.tobytes()
