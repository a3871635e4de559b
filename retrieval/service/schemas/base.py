"""What the models share.

What the library checks itself stands in the descriptions alone (`json_schema_extra`), and its own errors say it best;
pydantic checks the shape and the types.
"""

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from retrieval.checking import MAX_NAME_CHARACTERS

JOB_ID_EXAMPLE = "0b6f0a3e-3d0c-4f37-9d5f-9f6a4f2f6a51"
FILTER_EXAMPLE: JsonDict = {"year": {"$gte": 2025}}
METADATA_EXAMPLE: JsonDict = {"year": 2026, "source": "handbook"}


class Body(BaseModel):
    """A request's body: no unknown fields, no values of another type, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Result(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(extra="forbid")


_NAME = "The collection's name."
_NAME_RULE: JsonDict = {"minLength": 1, "maxLength": MAX_NAME_CHARACTERS, "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$"}

CollectionName = Annotated[str, Field(description=_NAME, examples=["handbook"], json_schema_extra=_NAME_RULE)]

NameInPath = Annotated[str, Path(description=_NAME, examples=["handbook"], json_schema_extra=_NAME_RULE)]

DocumentIdInPath = Annotated[
    str,
    Path(
        description="The document's id. Slashes may stand as they are; `?`, `#` and `%` percent-encoded.",
        examples=["leave"],
        json_schema_extra={"minLength": 1},
    ),
]

JobIdInPath = Annotated[
    str,
    Path(description="The `job_id` of the upload.", examples=[JOB_ID_EXAMPLE]),
]

TopK = Annotated[
    int,
    Field(
        description="The most passages to return; at most what the service allows, 1,000 unless set otherwise.",
        json_schema_extra={"minimum": 1},
    ),
]

Question = Annotated[
    str,
    Field(
        description="What to look for, in words.",
        examples=["how much leave do I get?"],
        json_schema_extra={"minLength": 1},
    ),
]

MaxTokens = Annotated[
    int | None, Field(description="The longest answer, in tokens of the model.", json_schema_extra={"minimum": 1})
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
