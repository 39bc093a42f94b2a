"""Links from a page's technical words to its glossary, each where it first occurs outside it."""

from __future__ import annotations

import re

# An entry of the glossary: its id, and the words that lead to it.
ENTRY = re.compile(r'<dt id="(term-[\w-]+)" data-words="([^"]*)">')
TAG = re.compile(r"(<[^>]*>)")
NAME = re.compile(r"</?([a-z0-9]+)")
# Elements whose text is no prose: links already, names that readers chose, controls, headings and drawings.
OTHER = {"a", "bdi", "button", "cite", "code", "form", "h1", "h2", "h3", "nav", "style", "summary", "svg", "title"}


def linked(page: str) -> str:
    """The page, with a link to the glossary from the first occurrence of each of its words in prose or tables."""
    ids = {word: entry for entry, words in ENTRY.findall(page) for word in words.split("|")}
    start, end = page.index("<main>"), page.index('<section id="glossary"')
    words = "|".join(re.escape(word) for word in sorted(ids, key=len, reverse=True))
    any_word = re.compile(rf"(?<![\w/–-])(?:{words})(?![\w-])")
    done: set[str] = set()

    def link(found: re.Match[str]) -> str:
        entry = ids[found[0]]
        if entry in done:
            return found[0]
        done.add(entry)
        return f'<a class="term" href="#{entry}">{found[0]}</a>'

    pieces, depth = TAG.split(page[start:end]), 0  # text and tags in turn
    for i, piece in enumerate(pieces):
        if i % 2:
            name = NAME.match(piece)
            if name and name[1] in OTHER:
                depth += -1 if piece.startswith("</") else 1
        elif not depth:
            pieces[i] = any_word.sub(link, piece)
    return page[:start] + "".join(pieces) + ENTRY.sub(r'<dt id="\1">', page[end:])
