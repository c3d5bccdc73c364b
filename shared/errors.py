"""
The errors of Esclusa. The class says what happens next, the message says where and what.

EsclusaError
├── ConfigurationError   a person mends a file or a setting; the command ends with code 2
│   └── SourceNotFound   no file declares a source of that name; the command ends with code 4
├── Refused              the batch is quarantined for a reason; repeating cures nothing
├── Unavailable          something outside is away; the same again later
│   ├── SourceUnavailable    it is the source; its breaker counts it
│   └── SourceConflict       the source is well and put others first; read again whole, its breaker counts nothing
├── Interrupted          the process was told to stop; the attempt lets go of its batch
├── LostLease            another attempt speaks for the batch; stop and leave everything
├── StaleRevision        somebody else changed the row; read again
├── IllegalTransition    a defect: no edge leads there
├── MalformedMessage     a message nobody of ours wrote; it goes to the dead letters
├── ObjectNotFound       the bucket does not hold what the ledger names
├── ObjectConflict       a key holds other bytes than it should be given
└── SecretNotFound       a reference leads nowhere
"""

from collections.abc import Mapping, Sequence

from shared.domain.files import DataFile
from shared.domain.reasons import Reason


class EsclusaError(Exception):
    """Any error of ours."""


class ConfigurationError(EsclusaError):
    """A file or a setting is wrong. The message lists every mistake found."""


class SourceNotFound(ConfigurationError):
    """No source file declares a source of that name."""


class Refused(EsclusaError):
    """
    A batch is refused and set aside until somebody cures the cause.

    `evidence`: files left in `quarantine/`. `findings`: JSON values for programs, kept as the attempt's manifest.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        evidence: Sequence[DataFile] = (),
        findings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.evidence = tuple(evidence)
        self.findings = dict(findings or {})


class Unavailable(EsclusaError):
    """A source, store, queue, database or warehouse did not answer as it should. Trying later may help."""


class Interrupted(EsclusaError):
    """The process was told to stop in the midst of an attempt. Another one may begin at once."""


class SourceUnavailable(Unavailable):
    """A source did not answer as it should: whoever goes on asking it makes it worse."""


class SourceConflict(Unavailable):
    """
    A source broke a reading off for the sake of others: a deadlock, a lock, a standby that has to replay.

    Nothing of what was read may be used; read again, from another snapshot, it will probably go well.
    """


class LostLease(EsclusaError):
    """The attempt no longer speaks for its batch."""


class StaleRevision(EsclusaError):
    """The row was changed since it was read."""


class IllegalTransition(EsclusaError):
    """No edge leads from the one state to the other."""


class MalformedMessage(EsclusaError):
    """A message is not one of ours."""


class ObjectNotFound(EsclusaError):
    """A bucket does not hold an object."""


class ObjectConflict(EsclusaError):
    """A key holds other bytes already. Keys are written once."""


class SecretNotFound(EsclusaError):
    """A reference to a secret leads nowhere."""
