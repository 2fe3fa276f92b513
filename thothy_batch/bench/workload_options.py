"""The options that choose a workload: a file, lengths, or documents."""

from dataclasses import dataclass
from pathlib import Path

from thothy_batch.bench.files import file_workload
from thothy_batch.bench.workload import (
    DEFAULT_REQUESTS,
    Lengths,
    Workload,
    documents_workload,
    lengths_workload,
)
from thothy_batch.errors import ManifestError

# After a document: an instruction of a few sentences; output: a summary or a report.
_ARTIFACT_LENGTHS = "64-128/64-256"
_DOCUMENT_TOKENS, _ARTIFACTS = 3000, 4
_MAX_PROMPT_TOKENS = 1 << 30  # in memory, 4 bytes each


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """A workload as the command line names it; None: not given."""

    path: Path | None = None
    lengths: str | None = None
    num_requests: int | None = None
    num_documents: int | None = None
    document_tokens: int | None = None
    artifacts: int | None = None
    limit: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise ManifestError for options that exclude each other, or are out of range."""
        self._check_counts()
        others = self.lengths is not None or self.num_documents is not None
        if self.path is None and not others:
            raise ManifestError(
                "no workload was named",
                hint="name a file, or use --lengths 778/128 or --documents 64",
            )
        if self.path is not None and others:
            raise ManifestError(
                "a workload file goes neither with --lengths nor with --documents",
                hint="leave one of them out",
            )
        if self.num_documents is None:
            self._refuse(
                "--documents", document_tokens="--document-tokens", artifacts="--artifacts"
            )
        if self.lengths is None or self.num_documents is not None:
            self._refuse("--lengths alone", num_requests="--requests")
        if self.path is None:
            self._check_size()

    def make(self, vocab_size: int) -> Workload:
        """Read the file, or generate the requests. Raises ManifestError."""
        if self.path is not None:
            return file_workload(self.path, vocab_size=vocab_size, limit=self.limit, seed=self.seed)
        if self.num_documents is not None:
            workload = documents_workload(
                self.num_documents,
                document_tokens=self.document_tokens or _DOCUMENT_TOKENS,
                artifacts=self.artifacts or _ARTIFACTS,
                lengths=self._lengths(),
                vocab_size=vocab_size,
                seed=self.seed,
            )
        else:
            workload = lengths_workload(
                self._lengths(),
                num_requests=self.num_requests or DEFAULT_REQUESTS,
                vocab_size=vocab_size,
                seed=self.seed,
            )
        return workload if self.limit is None else workload.first(self.limit)

    def _lengths(self) -> Lengths:
        """Lengths of prompt and output; with documents, of the part after the document."""
        return Lengths.parse(_ARTIFACT_LENGTHS if self.lengths is None else self.lengths)

    def _check_size(self) -> None:
        """Refuse prompts that would not fit in memory."""
        longest = self._lengths().prompt[1]
        if self.num_documents is None:
            num_prompts = self.num_requests or DEFAULT_REQUESTS
        else:
            num_prompts = self.num_documents * (self.artifacts or _ARTIFACTS)
            longest += self.document_tokens or _DOCUMENT_TOKENS
        if num_prompts * longest > _MAX_PROMPT_TOKENS:
            raise ManifestError(
                f"the prompts would have more than {_MAX_PROMPT_TOKENS:,} tokens in all",
                hint="ask for fewer or shorter ones",
            )

    def _check_counts(self) -> None:
        counts = {
            "--requests": self.num_requests,
            "--documents": self.num_documents,
            "--document-tokens": self.document_tokens,
            "--artifacts": self.artifacts,
            "--limit": self.limit,
        }
        for option, value in counts.items():
            if value is not None and value < 1:
                raise ManifestError(f"{option} {value}: it must be at least 1")
        if self.seed < 0:
            raise ManifestError(f"--seed {self.seed}: it must be at least 0")

    def _refuse(self, needed: str, **options: str) -> None:
        for name, option in options.items():
            if getattr(self, name) is not None:
                raise ManifestError(f"{option} goes with {needed}", hint=f"leave {option} out")
