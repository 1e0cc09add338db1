"""A process that serves the real local API over sample views, for the tests of the command line.

    python node_for_tests.py DATA_DIR

Takes the data directory's lock, prints `ready`, and ends after `primed stop`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from primed.node import views as v
from primed.node.api import make_app, serving
from primed.node.lock import held
from primed.node.paths import Paths
from primed.p2p.errors import UserError

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
RUN = "ab" * 32


class SampleNode:
    """A NodeView with something of everything."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._arriving = 0  # looks until the weights are here
        self.stopping = trio.Event()

    async def status(self) -> v.StatusView:
        return v.StatusView(
            version="0.1.0",
            peer=PEER,
            pid=os.getpid(),
            data_dir=str(self._paths.root),
            uptime_s=4000.0,
            network=v.NetworkView(
                state="online", reason="1 peer answers", listen=("/ip4/127.0.0.1/tcp/1",), peers=1
            ),
            roles=(v.RoleView(role="worker", run=RUN, state="generating", reason="batch [7]"),),
            children=(
                v.ChildView(
                    name="engine-abababab",
                    kind="engine",
                    run=RUN,
                    pid=4242,
                    state="busy",
                    busy_with="batch 7",
                    busy_s=3.0,
                    restarts=1,
                    reason="was killed (signal 9), as the kernel does when memory runs out",
                ),
            ),
            runs=(sample_run(arriving=self._arriving),),
            waits=(
                v.WaitView(
                    name="verdict on batch 6", waiting_for="verifiers", since_s=2, deadline_s=118
                ),
            ),
            problems=(
                v.ProblemView(name="few-peers", what="one peer only", fix="give a bootstrap peer"),
            ),
        )

    async def peers(self) -> v.PeersView:
        peer = v.PeerView(
            peer=PEER,
            addresses=("/ip4/127.0.0.1/tcp/9",),
            direction="out",
            connected_s=90.0,
            score=-3.0,
            roles=("relay",),
            lane="streams",
            lane_reason="busy with 2 bulk conversations; again in 2 s",
        )
        return v.PeersView(peers=(peer,))

    async def identity(self) -> v.IdentityView:
        return v.IdentityView(peer=PEER, addresses=(), data_dir=str(self._paths.root))

    async def runs(self) -> v.RunsView:
        return v.RunsView(runs=(sample_run(),))

    async def run(self, run: str) -> v.RunView:
        if run == "bug":
            raise ZeroDivisionError("canary-secret")
        if not RUN.startswith(run) and run != "toy":
            raise UserError(f"no run {run!r}", "primed runs list shows those that are known")
        self._arriving = max(0, self._arriving - 1)
        return sample_run(arriving=self._arriving)

    async def join(self, target: str, roles: tuple[str, ...]) -> v.RunView:
        if roles == ("held",):
            raise UserError("held", exit_code=3)
        if target.startswith("arriving"):
            self._arriving = int(target.removeprefix("arriving-"))
        return sample_run(roles, arriving=self._arriving)

    async def publish(self, spec_path: str) -> v.RunView:
        assert Path(spec_path).is_absolute()
        return sample_run(("originator",))

    async def rewards(self, run: str, limit: int) -> v.RewardsView:
        batches = tuple(
            v.BatchView(
                run=RUN,
                counter=limit - n,
                state="rejected",
                reason="sampling",
                waits_for="",
                deadline_s=12.0,
                version="cd" * 32,
                tokens=100,
                reward_mean=0.5,
                credits=0.0,
            )
            for n in range(min(limit, 3))
        )
        return v.RewardsView(
            run=RUN,
            final=1.5,
            pending=2.25,
            excluded=True,
            batches=batches,
            rejected={"sampling": 3},
            states={"rejected": 3},
        )

    async def verdicts(self, run: str, limit: int) -> v.VerdictsView:
        verdict = v.VerdictView(
            commitment="ef" * 32,
            worker=PEER,
            counter=3,
            verifier=PEER,
            outcome="reject",
            reason="proof",
            round=0,
            measurements={"proof_distance": 12.5},
        )
        return v.VerdictsView(run=RUN, verdicts=(verdict,))

    async def stop(self) -> v.StoppingView:
        self.stopping.set()
        return v.StoppingView(pid=os.getpid())


def sample_run(roles: tuple[str, ...] = ("worker",), arriving: int = 0) -> v.RunView:
    """arriving: quarters of a snapshot that are missing, if any."""
    transfer = v.TransferView(
        name="snapshot of step 12",
        size_bytes=64 << 20,
        here_bytes=max(0, 4 - arriving) * (16 << 20),
        bytes_per_s=2.0 * (1 << 20),
        left_s=min(4, arriving) * 8.0,
        reason=f"{arriving} of 4 leaves missing; pulling from 3 peers",
    )
    version = v.VersionView(
        version="cd" * 32,
        learner=PEER,
        step=12,
        kind="step",
        reward_mean=0.75,
        batches=1,
        held=not arriving,
    )
    account = v.AccountView(
        peer=PEER, roles=("worker",), final=1.0, pending=0.5, excluded=True, reason="two rejects"
    )
    return v.RunView(
        run=RUN,
        name="toy",
        originator=PEER,
        joined=True,
        roles=roles,
        state="running",
        newest=version,
        lag_steps=1,
        reward_first=0.25,
        reward_last=0.75,
        versions=13,
        accounts=(account,),
        recent=(version,),
        invite=f"primed://{RUN}@/ip4/127.0.0.1/tcp/1/p2p/{PEER}",
        warning="NOT SYBIL-RESISTANT",
        transfers=(transfer,) if arriving else (),
    )


async def main(root: Path) -> None:
    paths = Paths(root)
    paths.create()
    with held(paths.lock, 1_700_000_000_000):
        node = SampleNode(paths)
        async with serving(make_app(node), paths.socket):
            print("ready", flush=True)
            await node.stopping.wait()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
