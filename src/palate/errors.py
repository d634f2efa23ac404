"""Every error Palate raises on purpose.

    PalateError                    one clear line, exit status 2
    ├── RecipeError                an unknown key, a bad value, a recipe that contradicts itself
    ├── DataError                  a bad row or file; knows its file and line
    ├── ModelError                 a model or tokenizer that cannot be loaded or used
    │   └── TemplateError          a chat template that breaks the prefix rule or doubles BOS
    ├── MissingExtraError          an optional package is needed; says what to install
    ├── MachineError               too little memory or disk for what was asked; nothing was begun
    ├── RewardError                a reward function or model that raised, or gave what is no score
    ├── EndpointError              a model elsewhere that cannot be reached, refuses, or answers what cannot be read
    ├── RunError                   a run directory that cannot be used
    │   ├── CheckpointError        no readable checkpoint where one was expected
    │   ├── DiskFullError          the disk filled up; what was finished is kept
    │   ├── BudgetError            as many requests or tokens were used as were allowed; what was answered is kept
    │   ├── LabelsNeededError      people must compare something before the run can go on; exit status 75
    │   ├── PeerError              another process of the run is gone, or did not come in time; exit status 3
    │   └── TrainingError          the run itself went wrong: non-finite, negative KL, collapsed entropy
    ├── SilentError                another process of the run has said what is wrong; it has that one's exit status
    └── RequestError               something a person asked of the app and cannot have
        ├── NotFoundError          it is not there, or not theirs: the two look alike
        ├── ForbiddenError         their role does not allow it
        ├── ConflictError          it is no longer (or not yet) possible
        └── TooManyError           not now: a limit on how often or how many

A user's mistake raises one of these; `assert` is for our own invariants only.
"""

from __future__ import annotations

from pathlib import Path


class PalateError(Exception):
    """Base of all errors a user can cause or meet; its message says what to do."""

    status = 2
    """Of a command that ends with it."""


class RecipeError(PalateError):
    """A recipe that cannot be used as written."""


class DataError(PalateError):
    """A file or row that cannot be used.

    Args:
        message: what is wrong and what to do.
        path: the file, if the error belongs to one.
        line: 1-based line (or row) number in that file.
    """

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        self.path, self.line = path, line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message)


class ModelError(PalateError):
    """A model or tokenizer that cannot be loaded or does not fit its use."""


class TemplateError(ModelError):
    """A chat template under which prompt tokens are no prefix of prompt + response tokens."""


class MissingExtraError(PalateError):
    """An optional dependency is missing.

    Args:
        package: the import that failed.
        extra: the extra of ours that installs it, such as ``parquet``.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run `pip install 'palate[{extra}]'`")


class MachineError(PalateError):
    """The machine has too little memory or disk for what was asked; nothing was begun."""


class RewardError(PalateError):
    """A reward function or model that raised, or gave what is no score; the run can go on once it is mended."""


class EndpointError(PalateError):
    """A model that runs elsewhere cannot be reached, refuses, or answers what cannot be read."""


class RunError(PalateError):
    """A run directory that cannot be created, resumed or read."""


class CheckpointError(RunError):
    """No readable checkpoint where one was expected."""


class DiskFullError(RunError):
    """The disk filled up; every finished checkpoint is kept and the run can be resumed."""


class BudgetError(RunError):
    """As many requests or tokens were used as were allowed; what was answered is kept and the run can be resumed."""


class LabelsNeededError(RunError):
    """People must compare something before the run can go on; nothing is lost, and nothing went wrong."""

    status = 75  # what sysexits.h calls a temporary failure: the same command goes on later


class PeerError(RunError):
    """Another process of the run is gone, or did not come in time; what was finished is kept."""

    status = 3


class SilentError(PalateError):
    """Another process of the run has said what is wrong.

    Args:
        status: that it ends with.
    """

    def __init__(self, status: int) -> None:
        super().__init__("")
        self.status = status


class TrainingError(RunError):
    """A run that must not go on: names the step and the cause."""


class RequestError(PalateError):
    """Something a person asked of the app and cannot have."""


class NotFoundError(RequestError):
    """It is not there, or it is not theirs; whoever asks cannot tell which."""


class ForbiddenError(RequestError):
    """Their role does not allow it."""


class ConflictError(RequestError):
    """It is no longer, or not yet, possible."""


class TooManyError(RequestError):
    """Not now: a limit on how often or how many.

    Args:
        message: what is limited.
        retry_after: seconds until it is worth asking again.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)
