"""Reference: tsvector and tsquery as PostgreSQL prints them.

Source: server files `utils/adt/tsvector.c`, `tsquery.c`.
"""

from __future__ import annotations

from tests.reference_values.reading import need, text_of

NOT, AND, OR, PHRASE = 1, 2, 3, 4
BINDS = {OR: 1, AND: 2, PHRASE: 3, NOT: 4}


class Cursor:
    """Reads numbers and strings one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, size: int) -> int:
        """An unsigned big-endian number."""
        need(self.at + size <= len(self.data), "unexpected end")
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def string(self) -> str:
        """A string that ends with a zero byte."""
        end = self.data.find(b"\x00", self.at)
        need(end >= 0, "unexpected end")
        text = text_of(self.data[self.at : end])
        self.at = end + 1
        return text

    def end(self) -> None:
        """Nothing may be left."""
        need(self.at == len(self.data), "trailing bytes")


def lexeme(word: str) -> str:
    """In quotes; quotes and backslashes twice."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"


def tsvector_binary(data: bytes) -> str:
    """How many lexemes; of each the word, how many positions, the positions with the weight in the two highest bits."""
    cursor = Cursor(data)
    words = []
    count = cursor.number(4)
    need(count <= len(data), "unexpected end")
    for _ in range(count):
        word = lexeme(cursor.string())
        places = [cursor.number(2) for _ in range(cursor.number(2))]
        marks = [f"{place & 0x3FFF}{('', 'C', 'B', 'A')[place >> 14]}" for place in places]
        words.append(word + (":" + ",".join(marks) if marks else ""))
    cursor.end()
    return " ".join(words)


def tsquery_binary(data: bytes) -> str:
    """How many nodes; an operator comes before its operands, of which the right one comes first."""
    cursor = Cursor(data)
    left = cursor.number(4)

    def node(outer: int, right_of_phrase: bool) -> str:
        nonlocal left
        need(left > 0, "an operand is missing")
        left -= 1
        kind = cursor.number(1)
        if kind == 1:
            weight, prefix = cursor.number(1), cursor.number(1)
            need(weight < 16 and prefix < 2, "unknown weight")
            marks = ("*" if prefix else "") + "".join(
                letter for bit, letter in ((8, "A"), (4, "B"), (2, "C"), (1, "D")) if weight & bit
            )
            return lexeme(cursor.string()) + (":" + marks if marks else "")
        need(kind == 2, "unknown node")
        operator = cursor.number(1)
        need(operator in BINDS, "unknown operator")
        binds = BINDS[operator]
        in_parentheses = binds < outer or (operator == PHRASE and right_of_phrase)
        if operator == NOT:
            text = "!" + node(binds, False)
        else:
            sign = {AND: "&", OR: "|", PHRASE: ""}[operator]
            if operator == PHRASE:
                distance = cursor.number(2)
                distance -= (distance >> 15) << 16  # it is signed, though the server makes no negative ones
                sign = "<->" if distance == 1 else f"<{distance}>"
            right = node(binds, operator == PHRASE)
            text = f"{node(binds, False)} {sign} {right}"
        return f"( {text} )" if in_parentheses else text

    text = node(0, False) if left else ""
    need(left == 0, "nodes are left over")
    cursor.end()
    return text
