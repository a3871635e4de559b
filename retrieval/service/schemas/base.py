"""What the models share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from retrieval.checking import MAX_NAME_CHARACTERS

FILTER_EXAMPLE: JsonDict = {"year": {"$gte": 2025}}
METADATA_EXAMPLE: JsonDict = {"year": 2026, "source": "handbook"}


class Body(BaseModel):
    """A request's body: no unknown fields, no values of another type, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Result(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(extra="forbid")


CollectionName = Annotated[
    str,
    Field(
        description=f"1 to {MAX_NAME_CHARACTERS} of the characters A-Z a-z 0-9 _ . -, the first a letter or a digit.",
        examples=["handbook"],
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
    ),
]

Metadata = Annotated[
    dict[str, Any],
    Field(
        description="What filters can ask about: keys with strings, numbers, booleans or lists of these.",
        examples=[METADATA_EXAMPLE],
    ),
]

Filter = Annotated[
    dict[str, Any] | None,
    Field(
        description="Only documents whose metadata matches, in MongoDB's style: `$eq $ne $gt $gte $lt $lte $in $nin "
        "$exists $and $or $not`; a bare value means `$eq`.",
        examples=[FILTER_EXAMPLE],
    ),
]
