"""Run torchrun and exit with the status of the ranks: ``python -m vitas_ds.distributed.torchrun ARGUMENTS``.

torchrun itself exits with 1 whatever happens, prints a traceback, and listens on all interfaces. Only the static
rendezvous of ``--master-addr`` and ``--master-port`` is supported.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import timedelta
from typing import Any

from vitas_ds.distributed.supervisor import STOPPED
from vitas_ds.errors import RankLost, SaveFailed, UserError

ORDER = (1, 2, SaveFailed.STATUS, RankLost.STATUS, STOPPED)  # ranks that end because of another one have the last ones


def main(words: list[str]) -> int:
    """Run torchrun with its arguments and return the exit status."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import static_tcp_rendezvous

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    static_tcp_rendezvous.TCPStore = _store  # type: ignore[misc, assignment]
    args = run.parse_args(words)
    try:
        run.run(args)
    except ChildFailedError as error:
        return worst([failure.exitcode for failure in error.failures.values()])
    except SignalException:
        return STOPPED
    except UserError as error:
        return _print(str(error), 2)
    except DistError:
        return _print(f"the {args.nnodes} nodes did not meet at {args.master_addr}:{args.master_port} in time; start "
                      "launch/torchrun.sh on each node", RankLost.STATUS)  # fmt: skip
    return 0


def worst(codes: list[int]) -> int:
    """Return the status that says most about a failed job; negative codes are those of killed ranks."""
    statuses = [code if code > 0 else RankLost.STATUS for code in codes if code]
    return min(statuses, key=lambda status: ORDER.index(status) if status in ORDER else -1)


def _store(host: str, port: int, nodes: int, is_master: bool, timeout: timedelta, **options: Any) -> Any:
    """Create the store of the nodes; on the first one, it listens on the interface of MASTER_ADDR only."""
    from torch.distributed import TCPStore

    from vitas_ds.distributed import network

    if is_master:
        options |= {"multi_tenant": False, "master_listen_fd": network.listen(host, port, nodes == 1).detach()}
    else:
        network.resolve(host)
    return TCPStore(host, port, nodes, is_master, timeout, **options)


def _print(line: str, status: int) -> int:
    print(f"torchrun: {line}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
