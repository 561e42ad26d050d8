"""A question in SQL, asked when somebody wants the answer.

What belongs here: the ``Query`` that ``store.sql`` returns. It asks anew at each call, so that it shows what is there
now; keep the DataFrame to keep an answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import InvalidRequest
from ..core.events import replace_surrogates
from . import frames
from .link import Link, Params
from .values import plain, to_json

if TYPE_CHECKING:
    import pandas
    import pyarrow


class Query:
    """A read-only SQL statement over a store's tables; nothing is asked until an answer is wanted.

    Args:
        link: to the store.
        sql: the statement.
        params: for its ``?`` (a sequence) or ``$name`` (a mapping). Times are handed over as ISO-8601 text, which
            DuckDB compares with times; write ``$t::timestamptz`` where it cannot know.
    """

    def __init__(self, link: Link, sql: str, params: Params = None) -> None:
        if not isinstance(sql, str):
            raise TypeError(f"A statement is text, not {type(sql).__name__}.")
        if (
            params is not None
            and not isinstance(params, (list, tuple, Mapping))
            and not hasattr(params, "tolist")
        ):
            raise TypeError(f"Parameters are a list or a mapping, not {type(params).__name__}.")
        self.sql = replace_surrogates(sql)  # as the tables have them
        self.params = params
        self._link = link

    def arrow(self) -> pyarrow.Table:
        """The answer as a ``pyarrow.Table``.

        Raises:
            QueryRefused: it is not one read-only statement over the store's tables.
            QueryFailed: DuckDB could not run it.
            QueryTimeout, QueryTooLarge: it was over a limit.
            InvalidRequest: a parameter that JSON has no word for.
        """
        params = None if self.params is None else replace_surrogates(plain(self.params))
        to_json(params, InvalidRequest)  # one way to a store must not take what the other refuses
        result = self._link.query(self.sql, params)
        if result.stale:
            warnings.warn("The tables are being rebuilt; this comes from the old ones.", stacklevel=3)
        return result.table

    def df(self) -> pandas.DataFrame:
        """The answer as a pandas DataFrame; times in UTC with their zone."""
        return frames.to_frame(self.arrow())

    def rows(self) -> list[dict[str, Any]]:
        """The answer as a list of dicts."""
        return frames.to_rows(self.arrow())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        table = self.arrow()  # once for both forms
        return {"text/plain": frames.to_text(table), "text/html": frames.to_html(table)}

    def _repr_html_(self) -> str:
        return frames.to_html(self.arrow())

    def __repr__(self) -> str:
        return f"<Query {self.sql!r}; .df(), .rows() or .arrow() asks it>"
