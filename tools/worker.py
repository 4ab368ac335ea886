"""Run Python as a worker of a distributed job: when it fails, the process ends at once.

    python tools/worker.py SCRIPT ARGUMENTS…
    python tools/worker.py -m MODULE ARGUMENTS…
    python tools/worker.py -c CODE ARGUMENTS…

Without this wrapper, an error in one worker hangs the job: at exit, MXNet waits for all other workers, which wait for
the failed one. tools/launch_local.py adds the wrapper; on several machines, add it to the command yourself.
"""

import os
import runpy
import sys
import traceback
import types

USAGE = 'worker.py: name what to run: python tools/worker.py SCRIPT ARGUMENTS…, or -m MODULE, or -c CODE\n'


def main():
    kind = sys.argv[1] if sys.argv[1:2] in (['-m'], ['-c']) else None
    if len(sys.argv) < (3 if kind else 2):
        sys.stderr.write(USAGE)
        sys.exit(2)
    if sys.argv[1] in ('-h', '--help'):
        print(__doc__)
        return
    if not kind and not os.path.isfile(sys.argv[1]):
        sys.stderr.write(f'worker.py: there is no file {sys.argv[1]} to run\n')
        sys.exit(2)
    what = sys.argv[2 if kind else 1]
    # As if started directly.
    sys.argv[:] = ([kind] if kind == '-c' else [what]) + sys.argv[3 if kind else 2 :]
    sys.path[0] = '' if kind == '-c' else os.getcwd() if kind else os.path.dirname(os.path.abspath(what))
    try:
        if kind == '-c':
            sys.modules['__main__'] = types.ModuleType('__main__')
            exec(compile(what, '<string>', 'exec'), vars(sys.modules['__main__']))
        elif kind == '-m':
            runpy.run_module(what, run_name='__main__', alter_sys=True)
        else:
            runpy.run_path(what, run_name='__main__')
    except SystemExit as end:
        status = end.code
        if status is not None and not isinstance(status, int):
            sys.stderr.write(f'{status}\n')
            status = 1
        end_at_once(status)
    except BaseException:
        traceback.print_exc()
        end_at_once(1)


def end_at_once(status):
    """End the process unless `status` is good; called while the exception keeps the script's kvstore alive.

    Freeing the kvstore would also wait for the other workers.
    """
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == '__main__':
    main()
