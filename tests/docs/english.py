"""Plain English, as far as a program can tell: the length of sentences, and phrases to avoid."""

from __future__ import annotations

import re
from collections.abc import Iterator

LIMIT = 30
"""A sentence has fewer words; code between backquotes counts as one."""
AVOIDED = re.compile(
    r"\b(is|are|was|were|be) (waited for|told of)\b"
    r"|\b(has|have|had|gets?|got) (its|their|his|her|a) (turns?|say)\b"
    r"|\bsay(s)? so\b|\bby the name that\b"
    # A clause with who or what as a subject, at the beginning or after a colon; a question may be one.
    r"|(?:^|[;:] )(?:What|Who|Whoever|Whatever)\b[^?]*?[^?]$",
    re.IGNORECASE,
)
"""Clauses with who and what as subjects, and paraphrases for which there is a plain word."""
BEGINS = r"[A-Z(*\"]|code\b|offload\b|nginx\b"
"""The beginnings of sentences: capitals, and names that are written as they are."""


def paragraphs(page: str) -> Iterator[str]:
    """The prose of a page: paragraphs, items of lists and cells of tables; no blocks of code and no headings."""
    text = re.sub(r"^(```|~~~).*?^\1$", "", page, flags=re.DOTALL | re.MULTILINE)
    begun = ""
    for line in [*text.splitlines(), ""]:
        is_prose = line.strip() and not re.match(r"(    |\t|\||#|:|\(.*\)=)", line)
        begins = bool(re.match(r"\s*([*-]|\d+\.) ", line))
        if begun and (not is_prose or begins):
            yield begun
            begun = ""
        if line.startswith("|"):
            yield from re.split(r"(?<!\\)\|", line)
        elif is_prose:
            begun += " " + re.sub(r"^\s*([*-]|\d+\.) ", "", line).strip()


def sentences(page: str) -> Iterator[str]:
    """The sentences of a page, with ``code`` for all code, and links as their texts."""
    for paragraph in paragraphs(page):
        plain = re.sub(r"`[^`]*`", "code", paragraph).replace("**", "")
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        parts = re.split(rf"(?<=[.!?])\)?\s+(?={BEGINS})", plain)
        yield from (part.strip() for part in parts if part.strip())


def faults(page: str) -> list[str]:
    """Each sentence that is too long or has a phrase to avoid, with the reason."""
    found = []
    for sentence in sentences(page):
        words = len(re.findall(r"[\w'-]+", sentence))
        if words >= LIMIT:
            found.append(f"{words} words: {sentence}")
        if match := AVOIDED.search(sentence):
            found.append(f"avoid {match[0]!r}: {sentence}")
    return found
