"""What the newest PyTorch and the tools around it do with a network; `make test-torch-newest` has all of them."""

import copy
import math
import re
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from torch import distributed, multiprocessing  # noqa: E402

from crunet import symbol_torch  # noqa: E402

if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 7):
    pytest.skip('the newest PyTorch has more: make test-torch-newest', allow_module_level=True)

BATCH = torch.export.Dim('batch', min=1, max=64)
COSINE = torch.nn.functional.cosine_similarity


def network(name='cru56', settings='', **options):
    """Return a narrow network with statistics as after a training."""
    torch.manual_seed(0)
    module = symbol_torch.get_model(f'{name}:net_multiplier=0.25,dropout=0.0{settings}', num_features=24, **options)
    for statistic in filter(torch.is_floating_point, module.buffers()):
        statistic.uniform_(0.5, 1.5)
    return module


def images(count=4):
    return torch.rand((count, 3, 112, 112), generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_near(found, expected, within=1e-5):
    """The difference is small next to the largest number."""
    difference = (torch.as_tensor(found) - expected).abs().max() / expected.abs().max()
    assert difference < within, difference


def test_an_exported_program_takes_any_batch():
    module = network().eval()
    program = torch.export.export(module, (images(),), dynamic_shapes=({0: BATCH},))
    assert_near(program.module()(images(3)), module(images(3)))


@pytest.mark.parametrize('is_new', [False, True])
def test_both_exporters_take_any_batch(is_new, tmp_path):
    onnxruntime, _ = pytest.importorskip('onnxruntime'), pytest.importorskip('onnxscript')
    module, path = network().eval(), str(tmp_path / 'network.onnx')
    axes = {'dynamic_shapes': ({0: BATCH},)} if is_new else {'dynamic_axes': {'x': {0: 'n'}, 'y': {0: 'n'}}}
    torch.onnx.export(module, (images(),), path, dynamo=is_new, input_names=['x'], output_names=['y'], **axes)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for count in (1, 3):
        (found,) = session.run(None, {'x': images(count).numpy()})
        assert_near(found, module(images(count)).detach())


@pytest.mark.parametrize('settings', ['', ',memonger=True', ',memonger=torch'])
def test_a_compiled_step_is_the_same(settings):
    module = network('cru56', settings).double().train()
    other, direction, kept = copy.deepcopy(module), torch.randn(4, 24), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda of: of):
        embeddings = torch.compile(module)(images().double())
    (embeddings * direction).sum().backward()
    (other(images().double()) * direction).sum().backward()
    assert (sum(kept) < 1e8) == (settings == ',memonger=torch')  # of 332 MB 62 are left
    largest = max(of.grad.abs().max() for of in other.parameters() if of.grad is not None)
    for (name, one), two in zip(module.named_parameters(), other.parameters()):
        if two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-9, atol=float(1e-12 * largest), msg=name)
    for (name, one), two in zip(module.named_buffers(), other.buffers()):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12, msg=name)


def test_a_library_of_aotinductor(tmp_path):
    module = network().eval()
    with torch.no_grad():
        program = torch.export.export(module, (images(),), dynamic_shapes=({0: BATCH},))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / 'network.pt2'))
        assert_near(torch._inductor.aoti_load_package(path)(images(3)), module(images(3)))


def test_int8_by_pt2e():
    """A weight that units share is called several times; only a strict export keeps these calls apart for torchao."""
    pt2e = pytest.importorskip('torchao.quantization.pt2e.quantize_pt2e')
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    module = network().eval()
    configuration = x86.get_default_x86_inductor_quantization_config()
    quantizer = x86.X86InductorQuantizer().set_global(configuration)
    prepared = pt2e.prepare_pt2e(torch.export.export(module, (images(),), strict=True).module(), quantizer)
    prepared(images())
    converted = pt2e.convert_pt2e(prepared)
    weights = [node for node in converted.graph.nodes if 'dequantize_per_channel' in str(node.target)]
    layers = [layer for layer in module.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(weights) >= len(layers) > 40
    assert 0.97 < COSINE(converted(images()), module(images())).min() < 0.99999


@pytest.mark.parametrize('settings', ['', ',memonger=True', ',memonger=torch'])
@pytest.mark.parametrize('of_layers', [False, True])
def test_two_processes_with_shards(settings, of_layers, tmp_path):
    """FSDP2 of the whole, and of each layer: the weights after two steps are those of one process; ties are kept."""
    multiprocessing.spawn(in_shards, (str(tmp_path / 'store'), settings, of_layers), 2)


def in_shards(rank, store, settings, of_layers):
    """Train with another process, on the same images, and alone."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    module, alone = (network('cru116', settings).train().to(memory_format=torch.contiguous_format) for _ in range(2))
    start = alone.conv0.weight.detach().clone()
    for layer in module.modules() if of_layers else ():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            fully_shard(layer)
    fully_shard(module)
    direction = torch.randn((4, 24), generator=torch.Generator().manual_seed(2))
    for one in (module, alone):
        optimiser = torch.optim.SGD(one.parameters(), lr=0.01, momentum=0.9)
        for _ in range(2):
            (one(images()) * direction).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
    assert list(state) == list(alone.state_dict()) and any('group' in name for name in state)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert (start - state['conv0.weight']).abs().max() > 1e-3
    distributed.destroy_process_group()


def test_torchinfo_counts_the_parameters_and_products():
    torchinfo = pytest.importorskip('torchinfo')
    found = torchinfo.summary(symbol_torch.get_model('ires18', 512), input_size=(1, 3, 112, 112), verbose=0)
    assert found.total_params == 24_020_352  # docs/networks.md
    assert math.isclose(found.total_mult_adds, 1.730e9, rel_tol=2e-2)  # it counts those of BatchNorm and PReLU as well


LOADER = """
import sys
import cv2, mxnet as mx, numpy as np, torch

class Faces(torch.utils.data.Dataset):
    def __init__(self):
        self.records = mx.recordio.MXIndexedRecordIO('x.idx', 'x.rec', 'r')

    def __len__(self):
        return len(self.records.keys)

    def __getitem__(self, number):
        header, image = mx.recordio.unpack(self.records.read_idx(number))
        return header.label, int(mx.image.imdecode(image).asnumpy().mean().round())

if __name__ == '__main__':
    records = mx.recordio.MXIndexedRecordIO('x.idx', 'x.rec', 'w')
    for number in range(100):
        image = cv2.imencode('.png', np.full((8, 8, 3), number, np.uint8))[1].tobytes()
        records.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(0, number, number, 0), image))
    records.close()
    faces = Faces()
    for context in ('fork', 'spawn'):
        loader = torch.utils.data.DataLoader(faces, 10, num_workers=2, multiprocessing_context=context)
        found = [pair for labels, means in loader for pair in zip(labels.tolist(), means.tolist())]
        assert found == [(number, number) for number in range(100)], found
    print(mx.__file__)
"""


def test_records_are_loaded_without_mxnet(tmp_path):
    """By forked and by spawned workers, of the stand-in that patch_insightface.py --without-mxnet copies."""
    from patcher import modern

    for name, content in modern.stand_in().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / 'load.py').write_text(LOADER)
    command = [sys.executable, 'load.py']
    done = subprocess.run(command, cwd=str(tmp_path), capture_output=True, text=True, timeout=900)
    assert done.stdout == f'{tmp_path}/mxnet/__init__.py\n', done.stderr


# ------------------------------------------------------------------------------------------------------- timm


@pytest.fixture(scope='module')
def timm():
    """Return timm, in which `import crunet` has registered the networks."""
    return pytest.importorskip('timm')


TIMM = ['cru56_imagenet', 'att56_imagenet', 'attnext56_imagenet', 'ires18_imagenet', 'resnet50_imagenet']


def test_the_networks_are_registered(timm):
    names = [name for name in symbol_torch.networks() if name.endswith('_imagenet')]
    assert len(names) == 30 and set(names) <= set(timm.list_models('*_imagenet'))
    model = timm.create_model('ires18_imagenet')
    assert {f'{model.default_cfg[key]}.weight' for key in ('first_conv', 'classifier')} < set(model.state_dict())
    config = timm.data.resolve_data_config(model=model)
    assert config['mean'] == config['std'] == (0.5, 0.5, 0.5) and config['input_size'] == (3, 224, 224)


@pytest.mark.parametrize('name', TIMM)
def test_a_model_of_timm_is_the_network(timm, name):
    import crunet

    settings = {'net_multiplier': 0.25}
    model = timm.create_model(name, num_classes=10, **settings).eval()
    for statistic in filter(torch.is_floating_point, model.buffers()):
        statistic.uniform_(0.5, 1.5)
    other = crunet.create_model(name, num_features=10, **settings).eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 224, 224)
    expected = other(x)
    torch.testing.assert_close(model(x), expected)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 7, 7)
    torch.testing.assert_close(model.forward_head(features), expected)
    torch.testing.assert_close(model.fc1(model.forward_head(features, pre_logits=True)), expected)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, features) and torch.equal(maps[-1], features)
    assert [of.shape[-1] for of in maps] == [56, 28, 14, 7]
    assert [of.shape[1] for of in maps] == [info['num_chs'] for info in model.feature_info]
    assert [info['reduction'] for info in model.feature_info] == [4, 8, 16, 32]
    assert model.get_classifier().out_features == 10
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in other.named_parameters()]
    model.stage4.unit1.conv1.register_forward_hook(lambda *_: pytest.fail('it continues behind the last index'))
    (second,) = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(second, maps[1])
    with pytest.raises(ValueError, match='output_fmt=NLC is not NCHW'):
        model.forward_intermediates(x, output_fmt='NLC')


def test_options_of_timm(timm):
    wide = {'net_multiplier': 0.25}
    grey = timm.create_model('att56_imagenet', num_classes=0, in_chans=1, img_size=96, **wide).eval()
    assert grey(torch.randn(2, 1, 96, 96)).shape == (2, grey.num_features)
    grey.reset_classifier(0, '')
    assert grey(torch.randn(2, 1, 96, 96)).shape == (2, grey.num_features, 3, 3)
    maps = timm.create_model('cru56_imagenet', features_only=True, out_indices=(1, 3), **wide)(
        torch.randn(1, 3, 64, 64)
    )
    assert [tuple(of.shape[1:]) for of in maps] == [(128, 8, 8), (512, 2, 2)]
    with pytest.raises(ValueError, match='net_multiplyer is not a setting'):
        timm.create_model('cru56_imagenet', net_multiplyer=1)
    with pytest.raises(ValueError, match='image_shape is not a setting of a network in timm, which has img_size'):
        timm.create_model('cru56_imagenet', image_shape=(96, 96, 3))
    dropped = timm.create_model('cru56_imagenet', num_classes=0, drop_rate=0.75, **wide)
    features = dropped.train()(torch.randn(2, 3, 64, 64))
    assert (features == 0).float().mean() > 0.6 > 0.5 > (dropped.eval()(torch.randn(2, 3, 64, 64)) == 0).float().mean()


@pytest.mark.parametrize('name', ['cru116_imagenet', 'att56_imagenet', 'ires50_imagenet'])
def test_groups_of_parameters_for_layer_decay(timm, name):
    """A unit each, the stem and the end: the learning rates of timm's optimiser grow from the stem to the end."""
    from timm.optim import create_optimizer_v2

    model = timm.create_model(name, net_multiplier=0.25)
    group_of = model.group_matcher()
    groups = {parameter: group_of(parameter) for parameter, _ in model.named_parameters()}
    last = max(group for group in groups.values() if group < math.inf)
    assert groups['conv0.weight'] == 0 and groups['fc1.weight'] == math.inf and set(groups.values()) >= set(range(last))
    assert [name for name, group in groups.items() if group == math.inf][-1] == 'fc1.bias'
    assert list(groups.values()) == sorted(groups.values())
    assert {model.group_matcher(coarse=True)(name) for name in groups} - {math.inf} == {0, 1, 2, 3, 4}
    optimiser = create_optimizer_v2(model, opt='sgd', lr=1.0, layer_decay=0.5)
    scales = {id(of): group['lr_scale'] for group in optimiser.param_groups for of in group['params']}
    assert (
        scales[id(model.conv0.weight)] < scales[id(model.stage3.unit1.conv3.weight)] < scales[id(model.fc1.weight)] == 1
    )
    units = {found.group() for found in (re.match(r'.*unit\d+', name) for name in groups) if found}
    assert last == len(units) >= 16


@pytest.mark.parametrize('zero_init_last', [True, False])
@pytest.mark.parametrize('name', TIMM)
def test_units_begin_at_zero_in_timm(timm, name, zero_init_last):
    """So the weights within a branch change nothing, except the network that begins as the paper's."""
    model = timm.create_model(name, net_multiplier=0.25, zero_init_last=zero_init_last).eval()
    x = torch.randn(1, 3, 224, 224)
    before = model.forward_features(x)
    with torch.no_grad():
        model.stage4.unit2.conv1.weight.mul_(2)
    assert torch.equal(model.forward_features(x), before) == zero_init_last


def test_recomputed_in_timm(timm):
    gradients, kept = [], []
    for enable in (False, True):
        torch.manual_seed(0)
        model = timm.create_model('cru56_imagenet', net_multiplier=0.25, zero_init_last=False).train()
        model.set_grad_checkpointing(enable)
        kept.append(0)

        def count(tensor):
            kept[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            classes = model(torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0)))
        classes[:, 0].sum().backward()
        gradients.append(model.stage2.unit1.conv3.weight.grad)
    torch.testing.assert_close(*gradients)
    assert kept[1] < 0.5 * kept[0]


def test_weights_of_mxnets_names_in_timm(timm, tmp_path):
    """As a checkpoint of timm's trainer, or a model.pt of an earlier version."""
    import crunet
    from crunet.identifiers import mxnet_names

    path, settings = str(tmp_path / 'model.pt'), {'net_multiplier': 0.25}
    model = crunet.create_model('ires18_imagenet', **settings).eval()
    state = model.state_dict()
    names = mxnet_names({name: tensor.ndim for name, tensor in state.items()})
    torch.save({names[name]: tensor for name, tensor in state.items() if name in names}, path)
    other = timm.create_model('ires18_imagenet', checkpoint_path=path, **settings).eval()
    x = torch.randn(2, 3, 224, 224)
    np.testing.assert_allclose(other(x).detach(), model(x).detach(), rtol=1e-5, atol=1e-5)
