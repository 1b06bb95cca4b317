"""Text to learn from, and how what is written begins: for the language models."""

from __future__ import annotations

from pathlib import Path

from fnet import data


def read(path: Path | None, encoding: str) -> tuple[str, str]:
    """The text for training, and the tenth at its end that is held out; Shakespeare without a file."""
    try:
        text = data.read_text(path, encoding) if path else "".join(data.tiny_shakespeare())
    except (OSError, ValueError, LookupError) as error:
        raise SystemExit(error) from None
    text = text.replace("\r\n", "\n")
    return text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]


def first_characters(prompt: str | None, path: Path | None, text: str, known: str) -> str:
    """What the samples begin with: the prompt, ROMEO for Shakespeare, or how the text begins; stops at unknown ones."""
    prompt = prompt if prompt is not None else text[:16] if path else "ROMEO:\n"
    foreign = "".join(sorted(set(prompt) - set(known)))
    if foreign or not prompt:
        raise SystemExit(f"--prompt {prompt!r} must be one or more of the text's characters; it lacks {foreign!r}")
    return prompt
