"""What stands for a retriever in an application without an index.

In: questions. Out: no passages, so that the model answers from what it has learned; searches are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragray.dataprep.language import detect_language
from ragray.engine.assistant import Retrieved
from ragray.serve.api import ApiError
from ragray.serve.conversation import Word
from ragray.serve.retriever import Followed, Found

if TYPE_CHECKING:
    from ragray.retrieval.similar import Wording


def _no_index() -> ApiError:
    return ApiError(404, "this server has no index to search; it only answers chats", code="not_served")


class ClosedBook:
    """Stands for a retriever where there is no index: the model answers from what it has learned."""

    async def retrieve(self, question: str) -> Retrieved:
        """No passages; their probability to answer is 0, and the model is asked nevertheless."""
        return Retrieved(question, detect_language(question), (), 0.0, True, 0.0)

    async def search(self, query: str, top_k: int, explain: bool = False) -> Found:
        """Refuses.

        Raises:
            ApiError: always.
        """
        raise _no_index()

    async def words(self, texts: Sequence[str]) -> list[list[Word]]:
        """None: there is no index that could weigh them."""
        return [[] for _ in texts]

    async def wording(self, question: str) -> Wording:
        """Refuses: near questions are told by an index.

        Raises:
            ApiError: always.
        """
        raise _no_index()

    async def followed(self) -> Followed | None:
        """None: no index changes."""
        return None

    async def ready(self) -> bool:
        """True: there is nothing to wait for."""
        return True
