"""`make demo`: a narrow network learns to tell faces apart, then the full one takes two steps."""
import os
import shutil
import sys

# Two contexts that share the cores are a quarter faster here than one that has them all. MXNet reads this
# variable when it is imported.
os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 2) // 2)))

from project import ROOT, Parser, run  # noqa: E402

import train_synthetic  # noqa: E402

OUTPUT = os.path.join('out', 'demo')
OWN = ('data', 'cru56-quarter', 'cru116')  # the folders in it that the demo makes
LEARNS = ['--network', 'cru56', '--multiplier', '0.25', '--steps', '135', '--devices', '2', '--per-batch-size', '16',
          '--images', '40', '--pairs', '200']
FULL = ['--network', 'cru116', '--steps', '2', '--devices', '2', '--per-batch-size', '2', '--no-verification',
        '--state-every', '0']
LEAST = 0.85  # of the verification; guessing gives 0.5


def main():
    Parser(prog='demo.py', description=__doc__).parse_args()
    output = os.path.join(ROOT, OUTPUT)
    for folder in OWN:  # and nothing else that may be there by now
        shutil.rmtree(os.path.join(output, folder), ignore_errors=True)
    data = ['--draw', '--data', os.path.join(output, OWN[0])]
    print('1. cru56 at a quarter of its width learns faces (two to three minutes)')
    narrow = train_synthetic.run_training(LEARNS + data + ['--output', os.path.join(output, OWN[1])])
    print('\n2. cru116 at full width takes two steps')
    full = train_synthetic.run_training(FULL + data + ['--output', os.path.join(output, OWN[2])])
    status = train_synthetic.report([narrow, full])
    if narrow['verification'] and narrow['verification'][0] < LEAST:
        sys.stderr.write('demo.py: %s tells faces apart with %.3f, which should be %.2f at least\n'
                         % (narrow['files'][1], narrow['verification'][0], LEAST))
        return 1
    return status


if __name__ == '__main__':
    run(main)
