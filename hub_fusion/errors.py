"""What can go wrong, as one small tree; a refusal of a contribution is a record, not an error.

HubFusionError
├── RecipeError            the recipe file does not say something hub_fusion can do
├── HubError               the Hub answered, but not with what was asked for
│   ├── HubUnreachable     no answer at all (connection refused, timeout, 5xx after retries)
│   ├── RepoMissing        no such repository, revision or file (or the token may not see it)
│   └── HubConflict        somebody else was first (412 on a commit, 409 on a tag)
├── WeightsError           a checkpoint is malformed or does not fit the base
│   └── HeaderError        a safetensors header breaks the format
├── OutputError            the result cannot be written: a full or broken disk, or another fuse writes there
├── RoomError              this machine has too little disk or memory for a round
│   └── BudgetSpent        a generation would cost, or has cost, more than its recipe allows
├── MergeError             a merge method was asked for something it cannot do
├── RecordError            a published record (fusion/*.json) cannot be read
├── DeedRefused            the keeper of the token will not do what its worker asks for
└── WorkerLost             the worker ended by what nobody told it

Every message states the law that was broken, the values that broke it and the likely remedy.
"""


class HubFusionError(Exception):
    """The root: catching it catches every error this package raises on purpose."""


class RecipeError(HubFusionError):
    """The recipe is malformed: unknown key, wrong type, impossible combination."""


class HubError(HubFusionError):
    """The Hub refused or answered something unexpected."""


class HubUnreachable(HubError):
    """The Hub did not answer; trying again later may help.

    `retry_after_s`: when the Hub said that it will. `refused`: it turned the request away, which so has not happened.
    """

    def __init__(self, text: str, *, retry_after_s: float | None = None, refused: bool = False) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.refused = refused


class RepoMissing(HubError):
    """A repository, revision or file is not there, or is hidden from this token."""


class HubConflict(HubError):
    """A concurrent writer moved the branch or took the tag first."""


class WeightsError(HubFusionError):
    """A checkpoint cannot be used: names, shapes, dtypes or bytes are wrong."""


class HeaderError(WeightsError):
    """A safetensors header breaks the format."""


class OutputError(HubFusionError):
    """The folder of a result cannot be written, or somebody else is writing it; what is there stays."""


class RoomError(HubFusionError):
    """A round would need more than is there; nothing has been downloaded."""


class BudgetSpent(RoomError):
    """The recipe's budget for a generation does not allow to begin a round, or to go on with it."""


class MergeError(HubFusionError):
    """Unknown merge method, unknown option, or inputs the method cannot take."""


class RecordError(HubFusionError):
    """A record of the lineage is malformed or written by a newer version."""


class DeedRefused(HubFusionError):
    """The process that holds the write token is asked for something that no round asks for; nothing was changed."""


class WorkerLost(HubFusionError):
    """The process that works for the keeper was killed: by a person, or because memory ran out."""
