import sys

from .swarm import simulate

o = simulate(int(sys.argv[1]), int(sys.argv[2]), with_lines=True)
if len(sys.argv) > 3:
    print("\n".join(o.lines))
print("\n".join(o.failures))
print(o.seed, o.digest[:16], f"cpu {o.cpu_s:.2f} sim {o.simulated_s:.0f} lines {len(o.lines)}")
