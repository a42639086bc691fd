"""The errors edgedet raises on purpose; every one carries a message a user can act on.

    EdgedetError                 exit code 2: what the user gave cannot be used
    ├── SpecError                a ModelSpec that is missing, of another version or inconsistent
    ├── ArtifactError            a model file that is missing, truncated, foreign or altered
    ├── CheckpointError          a PyTorch checkpoint that is unsafe, unknown or does not fit
    ├── DataError                a data set that is empty, unknown or at odds with the model
    │   ├── ImageError           one image that cannot be read
    │   └── SplitAbsent          a data set without the split asked for
    ├── ExportError              a model that cannot be written in the form asked for
    ├── RuntimeUnavailable       no runtime can serve a file here; says why and what to install
    ├── SourceError              a video, folder or camera that gives no frames
    ├── DownloadError            published weights that cannot be fetched, or are not what was published
    ├── OutputError              a place that cannot be written: permissions, disk full
    └── UsageError               options that contradict each other
    GateFailed                   exit code 1: a measurement missed its gate

The command line turns each into one line on stderr and its exit code; a
traceback always means a defect of edgedet's own.
"""


class EdgedetError(Exception):
    """What the user gave cannot be used; the message says what, which value, and what mends it."""

    exit_code = 2


class SpecError(EdgedetError):
    """A ModelSpec is missing, of another version, or inconsistent."""


class ArtifactError(EdgedetError):
    """A model file is missing, truncated, foreign or altered."""


class CheckpointError(EdgedetError):
    """A PyTorch checkpoint is unsafe to read, of an unknown family, or does not fit."""


class DataError(EdgedetError):
    """A data set is empty, in no known format, or at odds with the model."""


class ImageError(DataError):
    """One image cannot be read."""


class SplitAbsent(DataError):
    """A data set has no split of the name asked for; the data itself may be well."""


class ExportError(EdgedetError):
    """A model cannot be written in the form asked for."""


class RuntimeUnavailable(EdgedetError):
    """No runtime can serve this file here; the message says why and what to install."""


class SourceError(EdgedetError):
    """A video, folder or camera gives no frames."""


class DownloadError(EdgedetError):
    """Published weights cannot be fetched, or are not what was published."""


class OutputError(EdgedetError):
    """A place cannot be written to: permissions, a full disk."""


class UsageError(EdgedetError):
    """Options contradict each other or have a value outside their range."""


class GateFailed(Exception):
    """A measurement missed its gate; the message gives the figure and the gate."""

    exit_code = 1
