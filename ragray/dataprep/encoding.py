"""Which encoding a file's text is in.

In: the first bytes of a file as a stream. Out: the name of a codec. Pieces of text vote, so that damage in one place
does not change how the rest is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

# Codecs in which a line break is the byte 0x0A and nothing else contains it: their files can be cut anywhere at lines.
LINE_SAFE = frozenset(
    {"utf-8", "utf-8-sig", "ascii", "gb18030", "gbk", "gb2312", "big5", "big5hkscs", "cp950", "cp1252", "iso8859-1"}
)

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_BLOCK_BYTES = 1 << 20
_ENOUGH_PIECES = 1 << 14
_HIGH_BYTES = bytes(range(128, 256))
_MIN_HIGH_BYTES = 256
_GUESSED_BYTES = 1 << 16
# No byte below 0x30 is part of a longer character in UTF-8, GB18030 or Big5, so it is safe to cut there.
_SAFE_CUT = re.compile(rb"[\x00-\x2f]+")
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
# The most frequent characters of running Chinese text, simplified and traditional: about a third of any text.
_FREQUENT = frozenset(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然"
    "没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理"
    "什问题请怎何安装服务使件据数设置电话因果症病医药治疗"
    "這來國個說們為時會著過學對裡後麼沒於還發當開無見經頭動兩長樣現將與進實問題請裝務據數設電話療醫藥"
    "，。、？！：；（）「」《》"
)
_MAX_DAMAGED_SHARE = 0.5
_MIN_CHINESE_SHARE = 0.02
_MIN_UTF16_SHARE = 0.15
_WESTERN_PUNCTUATION = re.compile(rb"[\x80\x82\x84\x85\x8b\x91-\x97\x99\x9b\xa0\xa3\xa9\xab\xae\xb0\xb7\xbb\xbd]")
_OTHERS = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "koi8_r", "iso8859_2", "gb18030", "cp932", "cp949"]


def detect_encoding(stream: BinaryIO) -> str:
    """The encoding of a text: its byte order mark, else UTF-8, UTF-16, GB18030 or Big5, whichever most of it fits.

    Text that is none of these is left to charset-normalizer.
    """
    block = stream.read(_BLOCK_BYTES)
    for mark, name in _BOMS:
        if block.startswith(mark):
            return name
    wide = _wide_by_zeros(block)
    if wide:
        return wide
    start = block[:_GUESSED_BYTES]
    pieces: list[bytes] = []
    while block and len(pieces) < _ENOUGH_PIECES:
        if not block.isascii():
            if not pieces and _is_sound_utf8(block):
                return "utf-8"
            found = _SAFE_CUT.split(block)
            inner = found[1:-1] if len(block) == _BLOCK_BYTES else found  # a block may end within a character
            pieces += [piece for piece in inner if not piece.isascii()]
        block = stream.read(_BLOCK_BYTES)
    return _by_votes(pieces, start)


def declared_encoding(head: bytes) -> str:
    """The encoding that an HTML page names in its first bytes, or ""."""
    found = re.search(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{1,40})", head[:4096], re.IGNORECASE)
    name = found[1].decode("ascii").lower() if found else ""
    return "gb18030" if name in ("gb2312", "gbk") else "big5hkscs" if name == "big5" else name


def _by_votes(pieces: Sequence[bytes], start: bytes) -> str:
    """The encoding in which most of the pieces beyond ASCII are text."""
    joined = b" ".join(pieces)
    if _damaged_share(joined.decode("utf-8", "replace")) <= _MAX_DAMAGED_SHARE:
        return "utf-8"
    shares: dict[str, float] = {}
    for name in ("gb18030", "big5hkscs"):
        text = joined.decode(name, "replace")
        if _damaged_share(text) <= _MAX_DAMAGED_SHARE:
            shares[name] = _frequent_share(text)
    for name in ("utf-16-le", "utf-16-be"):
        share = _frequent_share(start[: len(start) // 2 * 2].decode(name, "ignore"))
        if share > max(_MIN_UTF16_SHARE, *shares.values(), 0.0):
            shares[name] = share
    likely = max(shares, key=lambda name: shares[name], default="utf-8")
    return likely if shares.get(likely, 0.0) >= _MIN_CHINESE_SHARE else _guess(start) or likely


def _wide_by_zeros(block: bytes) -> str:
    """UTF-16 without a mark shows zero bytes at every second place; "" where they do not stand so."""
    zeros = np.frombuffer(block, np.uint8) == 0
    even, odd = int(zeros[::2].sum()), int(zeros[1::2].sum())
    if max(even, odd) * 200 < len(block) or max(even, odd) < 10 * min(even, odd) or max(even, odd) < 2:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_sound_utf8(block: bytes) -> bool:
    """Whether all of a block is UTF-8, and so much of it beyond ASCII that it cannot be by chance."""
    tail = len(block) if len(block) < _BLOCK_BYTES else max(block.rfind(b"\n"), block.rfind(b" ")) + 1
    head = block[: tail or len(block)]
    return _decodes(head, "utf-8") and len(head) - len(head.translate(None, _HIGH_BYTES)) >= _MIN_HIGH_BYTES


def _decodes(piece: bytes, encoding: str) -> bool:
    try:
        piece.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _damaged_share(text: str) -> float:
    """The share of replaced characters among all beyond ASCII."""
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return text.count("\ufffd") / beyond if beyond else 0.0


def _frequent_share(text: str) -> float:
    """The share of frequent characters among Chinese ones and all that is no ASCII."""
    beyond = [char for char in text if not char.isascii()]
    return sum(char in _FREQUENT for char in beyond) / len(beyond) if beyond else 0.0


def _guess(start: bytes) -> str:
    from charset_normalizer import from_bytes

    high = _HIGH_BYTE.findall(start)
    if 2 * len(_WESTERN_PUNCTUATION.findall(start)) > len(high) and _decodes(start, "cp1252"):
        return "cp1252"  # English with curly quotes and dashes has too few signs for statistics
    best = from_bytes(start, cp_isolation=_OTHERS).best()
    return best.encoding if best is not None else ""
