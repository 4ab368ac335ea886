"""Compare our ONNX files in other inference engines with onnxruntime: `make test-engines`.

    .venv/bin/python benchmarks/engines.py --python .venv-engines/bin/python --output out/engines

Trains narrow networks on synthetic faces, exports them, and gives 20 held-out faces to every engine. Each
engine runs in a separate process. The exit code is 1 if a full-precision engine differs by more than DIFFERENCE of
the range, or a half-precision one has a cosine, measured from the mean embedding, below CENTRED. Times are for
one image on two threads, interleaved with onnxruntime (A B A B).
"""

import argparse
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIFFERENCE, CENTRED = 1e-4, 0.999
FACES, TURNS, RUNS, THREADS = 20, 4, 5, 2  # runs in a turn
STEPS = {'cru56': 150, 'att56': 150, 'ires50': 150, 'cru56-whole': 25}
FULL, HALF, WEIGHTS = 'float32', 'float16', '8-bit weights'
ENGINES = {}  # {name: (precision, function of the path of a file and a folder: returns a function of images)}
# Runs onnxruntime-web in node: the model, the images as raw float32, where to write the embeddings, how many images.
WEB = """
import * as ort from 'onnxruntime-web';
import fs from 'node:fs';
const [model, images, output, count] = process.argv.slice(2);
ort.env.wasm.numThreads = Number(process.env.THREADS);
const session = await ort.InferenceSession.create(model);
const pixels = new Float32Array(fs.readFileSync(images).buffer), found = [], size = pixels.length / count, times = [];
for (let i = 0; i < count; i++) {
  const data = new ort.Tensor('float32', pixels.slice(i * size, (i + 1) * size), [1, 3, 112, 112]);
  const start = performance.now();
  found.push(...(await session.run({data})).fc1.data);
  times.push(performance.now() - start);
}
fs.writeFileSync(output, new Uint8Array(new Float32Array(found).buffer));
console.log(JSON.stringify(times));
process.exit(0);
"""


def engine(name, precision=FULL):
    """Register a function that opens a file in an engine."""

    def register(function):
        ENGINES[name] = precision, function
        return function

    return register


def each(run):
    """Wrap a function of one image, (1, 3, height, width), for a batch of images."""
    return lambda images: np.concatenate([np.asarray(run(image[None])).reshape(1, -1) for image in images])


def called(*command):
    """Run a program and return its output; raise RuntimeError with the end of its errors if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode:
        raise RuntimeError(f'{os.path.basename(command[0])} ended with {done.returncode}: {done.stderr.strip()[-200:]}')
    return done.stdout


# ------------------------------------------------------------------------------------------------ the engines


@engine('onnxruntime')
def onnxruntime(path, folder):
    sys.path.insert(0, os.path.join(ROOT, 'tools'))
    from netkit.onnx_session import open_session

    session = open_session(path, threads=THREADS)  # whose threads sleep while the other engine computes
    return lambda images: session.run(None, {'data': images})[0]


def client(path):
    """Open a file in insightface's package, which takes BGR images and detects whether to normalise them."""
    import insightface

    model = insightface.model_zoo.get_model(path, providers=['CPUExecutionProvider'])
    return lambda images: model.get_feat([image[::-1].transpose(1, 2, 0).astype(np.uint8) for image in images])


@engine('insightface')
def insightface(path, folder):
    return client(path)


@engine('onnxsim, then insightface')
def onnxsim(path, folder):
    import onnx
    import onnxsim

    model, is_checked = onnxsim.simplify(onnx.load(path))
    assert is_checked
    onnx.save(model, os.path.join(folder, 'simple.onnx'))
    return client(os.path.join(folder, 'simple.onnx'))


@engine('onnxslim, then insightface')
def onnxslim(path, folder):
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(path)), os.path.join(folder, 'slim.onnx'))
    return client(os.path.join(folder, 'slim.onnx'))


@engine('.ort')
def ort(path, folder):
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    styles = [OptimizationStyle.Fixed]
    convert_onnx_models_to_ort(pathlib.Path(path), pathlib.Path(folder), optimization_styles=styles)
    return onnxruntime(os.path.join(folder, os.path.basename(path).replace('.onnx', '.ort')), folder)


def opencv(path, images, **options):
    import cv2

    cv2.setNumThreads(THREADS)
    net = cv2.dnn.readNetFromONNX(path, **options)

    def run(images):
        net.setInput(images)
        return net.forward().copy()

    one, five, again = run(images[:1]), run(images[:5]), run(images[:1])  # in one Net
    for few, expected in ((one, five[:1]), (again, one)):
        if np.abs(few - expected).max() > DIFFERENCE * np.ptp(five):
            raise RuntimeError('another embedding after another number of images')
    return run


@engine('OpenCV 4')
def opencv4(path, folder):
    return opencv(path, np.load(os.path.join(folder, 'images.npy')))


def opencv5(path, folder, **options):
    sys.path.insert(0, os.path.join(sys.prefix, 'opencv5'))
    import cv2

    assert cv2.__version__ >= '5'
    options = {key: getattr(cv2.dnn, value) for key, value in options.items()}
    return opencv(path, np.load(os.path.join(folder, 'images.npy')), **options)


ENGINES['OpenCV 5'] = FULL, opencv5
ENGINES['OpenCV 5, classic engine'] = FULL, functools.partial(opencv5, engine='ENGINE_CLASSIC')


def ncnn(path, folder, half):
    import ncnn

    program = os.path.join(os.path.dirname(os.path.dirname(ncnn.__file__)), 'pnnx', 'pnnx')
    copied = os.path.join(folder, 'x.onnx')
    with open(path, 'rb') as source, open(copied, 'wb') as target:
        target.write(source.read())
    called(program, copied, 'inputshape=[1,3,112,112]f32', f'fp16={half:d}')
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    assert not net.load_param(copied[:-4] + 'ncnn.param') and not net.load_model(copied[:-4] + 'ncnn.bin')

    def run(image):
        extractor = net.create_extractor()
        extractor.input('in0', ncnn.Mat(image[0]).clone())
        return np.array(extractor.extract('out0')[1])

    return each(run)


ENGINES['ncnn by pnnx'] = FULL, functools.partial(ncnn, half=False)
ENGINES['ncnn by pnnx, fp16=1'] = HALF, functools.partial(ncnn, half=True)


def mnn(path, folder, *options):
    import MNN
    from MNN import nn

    converted = os.path.join(folder, 'x.mnn')
    # Its mnnconvert waits for a report to a server at the end; this calls the underlying function.
    code = 'import sys, _tools; _tools.mnnconvert(["mnnconvert", *sys.argv[1:]])'
    words = ['-f', 'ONNX', '--modelFile', path, '--MNNModel', converted, '--bizCode', 'x', *options]
    called(sys.executable, '-c', code, *words)
    manager = nn.create_runtime_manager(({'backend': 'CPU', 'numThread': THREADS},))
    module = nn.load_module_from_file(converted, ['data'], ['fc1'], runtime_manager=manager)

    def run(image):
        given = MNN.expr.placeholder(list(image.shape), MNN.expr.NCHW)
        given.write(np.ascontiguousarray(image))
        return np.array(MNN.expr.convert(module.forward(given), MNN.expr.NCHW).read())

    return each(run)


ENGINES['MNN'] = FULL, mnn
ENGINES['MNN, --fp16'] = HALF, lambda path, folder: mnn(path, folder, '--fp16')
ENGINES['MNN, --weightQuantBits 8'] = WEIGHTS, lambda path, folder: mnn(path, folder, '--weightQuantBits', '8')


def tflite(path, folder, kind):
    sample = os.path.join(folder, 'sample.npy')  # else onnx2tf fetches one from the internet
    np.save(sample, np.load(os.path.join(folder, 'images.npy'))[:4].transpose(0, 2, 3, 1))
    called(
        os.path.join(sys.prefix, 'bin', 'onnx2tf'),
        '-i',
        path,
        '-o',
        folder,
        '-n',
        '-cind',
        'data',
        sample,
        '[0]',
        '[1]',
    )
    from ai_edge_litert.interpreter import Interpreter

    name = os.path.basename(path).replace('.onnx', f'_{kind}.tflite')
    interpreter = Interpreter(os.path.join(folder, name), num_threads=THREADS)
    interpreter.allocate_tensors()
    (given,), (computed,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image):
        interpreter.set_tensor(given['index'], np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
        interpreter.invoke()
        return interpreter.get_tensor(computed['index'])

    return each(run)


ENGINES['TFLite by onnx2tf'] = FULL, functools.partial(tflite, kind='float32')
ENGINES['TFLite by onnx2tf, float16 weights'] = HALF, functools.partial(tflite, kind='float16')


@engine('onnxruntime-web in node')
def web(path, folder):
    modules, given, taken = (os.path.join(*parts) for parts in ((sys.prefix, 'node'), (folder, 'i'), (folder, 'o')))
    program = os.path.join(modules, 'run.mjs')
    with open(program, 'w', encoding='utf-8') as file:
        file.write(WEB)

    def run(images):
        images.tofile(given)
        run.times = json.loads(called('node', program, path, given, taken, str(len(images))))
        return np.fromfile(taken, np.float32).reshape(len(images), -1)

    return run


# ---------------------------------------------------------------------------------------- one in this process


def measure(name, path, folder):
    """Print an engine's outputs as JSON, with its and onnxruntime's interleaved times in milliseconds."""
    images = np.load(os.path.join(folder, 'images.npy'))
    runs = onnxruntime(path, folder), ENGINES[name][1](path, folder)
    expected, found = (run(images) for run in runs)
    times = [[], []]
    for _ in range(TURNS):
        for run, of in zip(runs, times):
            of += milliseconds(run, images[:RUNS])
    middle = expected.mean(axis=0)
    print(
        json.dumps(
            {
                'difference': float(np.abs(found - expected).max() / np.ptp(expected)),
                'cosine': cosine(found, expected),
                'centred': cosine(found - middle, expected - middle),
                'times': [float(np.median(of)) for of in times],
            }
        )
    )


def milliseconds(run, images):
    """Return the times of single images."""
    if hasattr(run, 'times'):  # which are taken in another process
        run(images)
        return run.times
    found = []
    for image in images:
        start = time.perf_counter()
        run(image[None])
        found.append(1e3 * (time.perf_counter() - start))
    return found


def cosine(found, expected):
    """Return the minimum cosine of embeddings with the expected ones."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / lengths).min())


# ------------------------------------------------------------------------------------------------------- all


def prepare(output):
    """Train the missing networks, and export all; write the faces. Return {name: path of its file}."""
    tools = functools.partial(os.path.join, ROOT, 'tools')
    data, files = os.path.join(output, 'cru56', 'data'), {}
    for name, steps in STEPS.items():
        network, is_whole = name.partition('-')[0], name.endswith('-whole')
        files[name], trained = os.path.join(output, name + '.onnx'), os.path.join(output, name)
        width, batch = ('1', '8') if is_whole else ('0.25', '16')
        drawn = ['--data', data] if os.path.isfile(os.path.join(data, 'drawn.bin')) else []
        words = ['--network', network, '--multiplier', width, '--per-batch-size', batch, '--steps', str(steps)]
        if not os.path.exists(os.path.join(trained, f'{network}-0001.params')):
            print(f'training {name}', flush=True)
            called(sys.executable, tools('train.py'), *words, *drawn, '--output', trained, '--no-verification')
        called(sys.executable, tools('export.py'), '--model', f'{trained}/{network},1', '--onnx', '--output', trained)
    sys.path[:0] = [ROOT, tools()]
    from netkit.project import start

    start()
    from netkit.data.pairs import PairSet

    pairs = PairSet(os.path.join(data, 'drawn.bin'), (112, 112, 3))
    images = np.stack([pairs.image(2 * number) for number in range(FACES)]).transpose(0, 3, 1, 2)
    np.save(os.path.join(output, 'images.npy'), np.ascontiguousarray(images, np.float32))
    return files


def is_right(precision, found):
    """Return whether an engine meets the limit of its precision."""
    if precision == FULL:
        return found['difference'] <= DIFFERENCE
    return precision == WEIGHTS or found['centred'] >= CENTRED


def row(python, name, path, output):
    """Measure an engine in a separate process; return (row of the table, whether it is right)."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(os.path.abspath(os.path.join(output, 'images.npy')), os.path.join(folder, 'images.npy'))
        command = [python, os.path.abspath(__file__), '--engine', name, os.path.abspath(path), folder]
        environment = dict(os.environ, OMP_NUM_THREADS=str(THREADS), THREADS=str(THREADS), TF_CPP_MIN_LOG_LEVEL='3')
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f'ended with {done.returncode}'])[-1]
        return (name, 'failed', last[:200], '', ''), False
    found = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = found['times']
    figures = f'{found["difference"]:.1e}', f'{found["cosine"]:.5f}', f'{found["centred"]:.5f}'
    return (name, *figures, f'{theirs:.1f} ({theirs / ours:.1f})'), is_right(ENGINES[name][0], found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--python', help='interpreter of the environment with the engines')
    parser.add_argument('-o', '--output', default='out/engines', help='folder of networks and files')
    parser.add_argument('--only', nargs='+', choices=ENGINES, metavar='ENGINE', help=', '.join(ENGINES))
    parser.add_argument('--engine', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        measure(*args.engine)
        return 0
    if args.python and not shutil.which(args.python):
        parser.error(f'--python {args.python} is not a program')
    os.makedirs(args.output, exist_ok=True)
    wrong = []
    for network, path in prepare(args.output).items():
        print(f'\n{network}:\n\n| engine | difference | cosine | from the mean | ms, one image (times onnxruntime) |')
        print('| :-- | --: | --: | --: | --: |')
        for name in args.only or ENGINES:
            texts, is_fine = row(args.python or sys.executable, name, path, args.output)
            print('| ' + ' | '.join(texts) + ' |', flush=True)
            wrong += [] if is_fine else [f'{network} in {name}']
    if wrong:
        sys.stderr.write(f'engines.py: not right: {", ".join(wrong)}\n')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
