"""XML of a stranger as a small tree: no document types, so no entities; bounded depth and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from primed.p2p import limits
from primed.p2p.errors import RemoteError


@dataclass
class Node:
    """An element by its local name; `text` is its own, stripped."""

    name: str
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Node]:
        """Every element of this name, in order; the tree is not deep."""
        if self.name == name:
            yield self
        for child in self.children:
            yield from child.all(name)

    def text_of(self, name: str) -> str:
        """Text of the first element of this name, "" if there is none."""
        return next((node.text for node in self.all(name)), "")


def parse(data: bytes) -> Node:
    """Raises RemoteError."""
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise RemoteError(f"an answer that is no XML: {str(error)[:100]}") from error
    return builder.root.children[0]


def _refuse_doctype(*_: object) -> None:
    raise RemoteError("an answer with a document type, which no router needs")


class _Builder:
    def __init__(self) -> None:
        self.root = Node("")
        self._open = [self.root]
        self._count = 0

    def start(self, name: str, _: dict[str, str]) -> None:
        self._count += 1
        if self._count > limits.UPNP_ELEMENTS or len(self._open) > limits.UPNP_DEPTH:
            raise RemoteError("an answer with too many elements")
        node = Node(name.rpartition(" ")[2])
        self._open[-1].children.append(node)
        self._open.append(node)

    def end(self, _: str) -> None:
        node = self._open.pop()
        node.text = node.text.strip()

    def characters(self, text: str) -> None:
        self._open[-1].text += text
