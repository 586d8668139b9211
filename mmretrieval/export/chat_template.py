"""The prompts of an encoder as a chat template, for programs that know nothing of this project."""

from __future__ import annotations

import json
import re
from typing import Any

from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.plain_text import special_tokens

_MARK = "\0"

_TEMPLATE = """
{%- macro plain(text) -%}
    {%- set made = namespace(text=text) -%}
    {%- for token in @SPECIAL@ -%}
        {%- set made.text = made.text | replace(token, token[:1] ~ " " ~ token[1:]) -%}
    {%- endfor -%}
    {{- made.text -}}
{%- endmacro -%}
{%- set found = namespace(instruction="", text="", pictures=0) -%}
{%- for message in messages -%}
    {%- set parts = message.content -%}
    {%- if parts is string -%}{%- set parts = [{"type": "text", "text": parts}] -%}{%- endif -%}
    {%- for part in parts -%}
        {%- if message.role not in ["system", "user"] -%}
            {{- raise_exception("A retriever embeds one item, not a pair or a dialogue.") -}}
        {%- elif part.type == "image" -%}
            {%- set found.pictures = found.pictures + 1 -%}
        {%- elif part.type != "text" -%}
            {{- raise_exception("This retriever reads texts and pictures only.") -}}
        {%- elif message.role == "system" -%}
            {%- set found.instruction = found.instruction ~ part.text -%}
        {%- else -%}
            {%- set found.text = found.text ~ part.text -%}
        {%- endif -%}
    {%- endfor -%}
{%- endfor -%}
{%- if found.pictures > 1 -%}{{- raise_exception("An item has one picture at most.") -}}{%- endif -%}
{%- if found.instruction -%}{{- @BEFORE@ ~ plain(found.instruction) ~ @BEHIND@ -}}{%- endif -%}
{%- if found.instruction or task == "query" -%}{{- @QUERY@ -}}{%- else -%}{{- @CANDIDATE@ -}}{%- endif -%}
{%- if found.pictures -%}{{- @PICTURE@ -}}{%- endif -%}
{{- plain(found.text) ~ @END@ -}}
"""


def chat_template(encoder: MLLMEncoder, after_picture: str = "") -> str:
    """Return a chat template that writes what :class:`~mmretrieval.encoder.prompts.InputProcessor` does.

    The system's turn is the instruction, the user's the content; without an instruction ``task`` tells
    queries (``query``) from candidates. Texts are not cut, which no template can.

    Args:
        encoder: An encoder; its templates must not be those of a chat.
        after_picture: What stands behind each picture.
    """
    templates, processor = encoder.templates, encoder.processor
    before, behind = templates.instruction.format(instruction=_MARK).split(_MARK)
    placeholder = getattr(processor, encoder.family.placeholder)
    markup = encoder.family.markup.format(image=placeholder)
    eos = processor.tokenizer.eos_token if templates.eos else ""
    texts = {
        "BEFORE": before,
        "BEHIND": behind,
        "QUERY": templates.query,
        "CANDIDATE": templates.candidate,
        "PICTURE": markup + after_picture + templates.after_image,
        "END": templates.end + eos,
        "SPECIAL": special_tokens(
            processor.tokenizer, [processor.tokenizer.convert_tokens_to_ids(placeholder)]
        ),
    }
    return re.sub("@([A-Z]+)@", lambda place: _literal(texts[place[1]]), _TEMPLATE.strip())


def has_one_place(instruction: str) -> bool:
    """Whether an instruction's template names its instruction exactly once."""
    return instruction.format(instruction=_MARK).count(_MARK) == 1


def _literal(value: Any) -> str:  # noqa: ANN401
    """A value in the language of templates; Jinja reads JSON's texts and lists."""
    return json.dumps(value, ensure_ascii=False)
