"""Texts of others, such as what a provider says, in a form that can be kept.

What is not here: what a text means (`replies.py`, `text.py`).
"""


def storable(text: str) -> str:
    """Leave out what neither Postgres nor UTF-8 can hold: NUL and lone surrogates, which JSON brings when escaped."""
    return text.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
