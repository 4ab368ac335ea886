"""Start a distributed training job on this machine: a scheduler, servers and workers of MXNet's parameter server.

Every worker runs COMMAND. If COMMAND is python, or env and python, the program inserts tools/worker.py before the
script; a shell script must do so itself (python tools/worker.py train.py …). The job succeeds when all workers do. If a
process fails, the program stops all others, which would wait for it forever.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

from netkit.project import start

start(needed=())

from netkit.cli import Parser, command_of, run, whole_number
from netkit.errors import UserError

# A scheduler or server does its work inside MXNet's import, until the workers have ended.
SERVE = [sys.executable, '-c', 'import mxnet']
RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'worker.py')
PATIENCE = 5  # seconds that scheduler and servers get to end by themselves after the workers


def parse_args(argv=None):
    parser = Parser(
        prog='launch_local.py', description=__doc__, usage='%(prog)s [--workers N] [--servers N] -- COMMAND'
    )
    parser.add_argument('--workers', type=whole_number(1), default=2, help='number of workers, which train')
    parser.add_argument('--servers', type=whole_number(1), default=1, help='number of servers, which sum gradients')
    parser.add_argument('--port', type=whole_number(1, 65535), help='port of the scheduler (default: a free one)')
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='-- COMMAND', help='command of every worker')
    args = parser.parse_args(argv)
    args.command = command_of(args.command)
    if not args.command:
        parser.error('say what the workers are to run: launch_local.py --workers 2 -- python train.py …')
    if not hasattr(os, 'killpg'):
        parser.error('MXNet has no parameter server on this system; use Linux or macOS')
    args.command = with_runner(args.command)
    return args


def with_runner(command):
    """Return a command that starts Python with tools/worker.py inserted after Python's options; any other unchanged."""
    place = 0
    if os.path.basename(command[0]) == 'env':
        place = next((place for place, word in enumerate(command) if place and '=' not in word), 0)
    if not re.match(r'(python|pypy)[\d.]*[a-z]?$', os.path.basename(command[place])):
        return command
    for place in range(place + 1, len(command)):  # noqa: B020  after the interpreter
        # Flags without a value, then perhaps one with a value, which may be the next word.
        match = re.match(r'-([a-zA-Z]*?)([cmWX])(.*)$', command[place], re.DOTALL)
        if match and match.group(2) in 'cm':
            flags, kind, value = match.groups()
            return (
                command[:place]
                + ['-' + flags] * bool(flags)
                + [RUNNER, '-' + kind]
                + [value] * bool(value)
                + command[place + 1 :]
            )
        if not command[place].startswith('-') and not takes_a_value(command[place - 1]):
            return command[:place] + [RUNNER] + command[place:]
    return command + [RUNNER]


def takes_a_value(option):
    """Return whether this word is an option of Python whose value is the next word."""
    return bool(re.match(r'-[a-zA-Z]*?[WX]$|--check-hash-based-pycs$', option))


def free_port(wanted):
    """Return a port that nothing listens on, the `wanted` one if it is not None; raises UserError."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port released just now is free
        try:
            listener.bind(('127.0.0.1', wanted or 0))
        except OSError as error:
            raise UserError(f'--port {wanted}: {error.strerror}; leave it out for a free one')
        return listener.getsockname()[1]


def start_processes(args):
    """Start all processes, each in its own process group; return {name: Popen}."""
    job = {
        'DMLC_PS_ROOT_URI': '127.0.0.1',
        'DMLC_PS_ROOT_PORT': str(free_port(args.port)),
        'DMLC_NUM_WORKER': str(args.workers),
        'DMLC_NUM_SERVER': str(args.servers),
    }
    names = ['scheduler'] + [f'server {number}' for number in range(args.servers)]
    names += [f'worker {number}' for number in range(args.workers)]
    processes = {}
    try:
        for name in names:
            role = name.split()[0]
            environment = dict(os.environ, DMLC_ROLE=role, **job)
            processes[name] = subprocess.Popen(
                args.command if role == 'worker' else SERVE, env=environment, start_new_session=True
            )
    except OSError as error:
        stop(processes)
        raise UserError(f'cannot start {args.command[0]}: {error.strerror}')
    except BaseException:
        stop(processes)
        raise
    return processes


def wait(processes):
    """Wait for the workers; return a sentence about the first process that failed, or None."""
    workers = {name for name in processes if name.startswith('worker')}
    while True:
        ended = {name: process.poll() for name, process in processes.items() if process.poll() is not None}
        for name, code in ended.items():
            if code != 0:
                how = f'was ended by signal {-code}' if code < 0 else f'ended with exit code {code}'
                return f'{name} {how}; the job was stopped'
        if workers <= set(ended):
            return None
        time.sleep(0.1)


def stop(processes, patience=0.0):
    """Give the processes `patience` seconds to end, then end them and their children."""
    deadline = time.time() + patience
    while time.time() < deadline and any(process.poll() is None for process in processes.values()):
        time.sleep(0.1)
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
        deadline = time.time() + 2
        while time.time() < deadline and any(process.poll() is None for process in processes.values()):
            time.sleep(0.05)


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the finally below has to run
    processes = start_processes(args)
    failure = 'interrupted'
    try:
        failure = wait(processes)
    finally:
        # Scheduler and servers end by themselves when all workers have ended, and never when one has failed.
        stop(processes, 0 if failure else PATIENCE)
    if failure:
        sys.stderr.write(f'launch_local.py: {failure}\n')
    return 1 if failure else 0


if __name__ == '__main__':
    run(main)
