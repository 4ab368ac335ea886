"""Run a Python script as a worker of a distributed job: where it ends badly, the process ends, at once.

    python tools/worker.py SCRIPT ARGUMENTS…

MXNet's own way out waits for all other workers, which wait for this one: an error in one of them would be a job that
hangs. tools/launch_local.py runs Python scripts by it; on several machines it stands in front of the script.
"""
import os
import runpy
import sys
import traceback


def main():
    if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
        sys.stderr.write('worker.py: name the script to run: python tools/worker.py SCRIPT ARGUMENTS…\n')
        sys.exit(2)
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # as if it had been started by itself
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            sys.stderr.write(status + '\n')
            status = 1
        end_at_once(status)
    except BaseException:
        traceback.print_exc()
        end_at_once(1)


def end_at_once(status):
    """End the process unless `status` is good; called while the exception keeps the script's kvstore alive.

    To give the kvstore up is to wait for the other workers, too.
    """
    if status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == '__main__':
    main()
