"""What lies where in the run directory: known to the pool, to the supervisor, and to the commands that ask or clean up."""

from pathlib import Path

IMAGE = "snapshot.bin"
IMAGE_DRAFT = "snapshot.new"
STATUS_SOCKET = "status.sock"
TAKEOVER_KEY = "takeover.key"
_METRICS = "metrics-"


def metrics_dir(run_dir: Path, first_queue: int) -> Path:
    """The multiprocess directory of prometheus_client. Of two agents, one of which takes over from the other, each has its own."""
    return run_dir / f"{_METRICS}{first_queue}"


def metrics_dirs(run_dir: Path) -> list[Path]:
    """All there are, whoever made them."""
    return sorted(path for path in run_dir.glob(f"{_METRICS}*") if path.is_dir() and not path.is_symlink())
