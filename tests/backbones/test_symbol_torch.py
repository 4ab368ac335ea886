"""The networks as PyTorch modules against MXNet. Skipped without PyTorch; `make test-torch` has it."""

import copy
import json
import os

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import config as host  # noqa: E402
from crunet import symbol_torch  # noqa: E402  it needs PyTorch
from crunet.identifiers import mxnet_names, torch_name  # noqa: E402
from crunet.nodes import record  # noqa: E402
from helpers import COMPUTED, FACE_NETWORKS, FIXED_GAMMAS, PATIENCE, PLAIN, RELEASED, ROOT, bind  # noqa: E402
from netkit._mxnet import mx  # noqa: E402
from netkit.graph.cpu_forms import for_cpu  # noqa: E402
from netkit.networks import build, builder, parse, settings_of  # noqa: E402

SYMBOLS = os.path.join(ROOT, 'symbols')
TINY = 'cru56:net_multiplier=0.125'
NARROW = {'net_multiplier': 0.125, 'emb_size': 16}
ONE_OF_EACH = ('cru56', 'att56', 'attnext56', 'ires50')
CHECKPOINTS = True, 'torch'


@pytest.fixture(autouse=True)
def one_thread():
    """oneDNN of PyTorch 2.4 can hang in odd widths with several threads."""
    torch.set_num_threads(1)


def small(network):
    """Return settings that are quick: narrow, and the smallest image that the network takes."""
    side = 64 if settings_of(network)['image_shape'][0] == 224 else 48
    return dict(NARROW, image_shape=(side, side, 3))


def recorded(network, **changes):
    settings = settings_of(network, **{**PLAIN, **small(network), **changes})
    return record(SYMBOLS, builder(network.partition(':')[0]).__name__, **settings)


def weights_of(executor):
    """Return {name: tensor} of the parameters and statistics of an executor."""
    both = {**executor.arg_dict, **executor.aux_dict}
    return {name: torch.tensor(array.asnumpy()) for name, array in both.items() if name != 'data'}


def mxnets(module, named):
    """Return {MXNet's name: tensor} of some of a module's (name, tensor); what MXNet has not is left out."""
    names = mxnet_names({name: tensor.ndim for name, tensor in module.state_dict().items()})
    return {names[name]: tensor for name, tensor in named if name in names}


def parameters(module):
    return mxnets(module, module.named_parameters())


def statistics(module):
    return mxnets(module, module.named_buffers())


def given(executor):
    """Return the images of an executor as arcface_torch hands them over."""
    return (torch.tensor(executor.arg_dict['data'].asnumpy()) - 127.5) / 127.5


def both(network, **changes):
    """Return (executor, module) of a network with the same weights."""
    settings = dict(small(network), **changes)
    side = settings['image_shape'][0]
    executor = bind(build(network, **{**PLAIN, **settings}), batch=4, side=side)
    for name in set(FIXED_GAMMAS) & set(executor.arg_dict):  # MXNet takes them for 1
        executor.arg_dict[name][:] = 1
    module = symbol_torch.SymbolModule(recorded(network, **changes), (side, side), dropout=0.0)
    module.load_state_dict(weights_of(executor))
    return executor, module


def numbers_per_channel(symbol, shape):
    """Return {node: batch x height x width of its output}."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=shape)
    return {
        name[: -len('_output')]: int(np.prod(found)) // found[1]
        for name, found in zip(internals.list_outputs(), shapes)
        if name.endswith('_output')
    }


def assert_near(found, expected, tolerance):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('network', COMPUTED + RELEASED)
def test_embeddings_are_mxnets(network):
    executor, module = both(network)
    module.eval()
    assert_near(module(given(executor)), executor.forward(is_train=False)[0].asnumpy(), 1e-5)


@pytest.mark.parametrize(
    'changes',
    [
        {'net_input': 2},
        {'net_mean': 120.0, 'net_std': 60.0},
        {'net_mean': (124.0, 116.0, 104.0), 'net_std': (58.0, 57.0, 57.5)},
        {'net_se': 1},
        {'net_output': 'GDC'},
        {'net_output': 'GAP', 'net_act': 'relu'},
        {'net_output': 'F'},
        {'net_output': 'Z'},  # no fully connected layer
        {'net_act': 'elu'},
        {'net_unit': 2},
        {'memonger': True},
    ],
    ids=str,
)
def test_other_settings_are_mxnets(changes):
    executor, module = both('cru56', **changes)
    module.eval()
    assert_near(module(given(executor)), executor.forward(is_train=False)[0].asnumpy(), 1e-5)


@pytest.mark.parametrize('network', ONE_OF_EACH)
def test_a_training_step_is_mxnets(network):
    """Gradients of all weights, in float64 where it matters not: tanh has no kinks. Statistics: biased there."""
    executor, module = both(network, net_act='tanh', net_output='FC')
    direction = np.random.RandomState(1).normal(size=executor.outputs[0].shape).astype(np.float32)
    expected = executor.forward(is_train=True)[0].asnumpy()
    executor.backward(mx.nd.array(direction))
    before = {name: value.clone() for name, value in statistics(module).items()}
    module.train()
    found = module(given(executor))
    assert_near(found, expected, 1e-4)
    (found * torch.tensor(direction)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in parameters(module).items() if parameter.grad is not None}
    assert set(gradients) == set(executor.grad_dict) - {'data', *FIXED_GAMMAS}
    for name, gradient in gradients.items():
        other = executor.grad_dict[name].asnumpy().ravel().astype(float)
        own = gradient.numpy().ravel().astype(float)
        if np.abs(other).max() > 1e-3 * max(np.abs(g.asnumpy()).max() for g in executor.grad_dict.values()):
            assert own @ other > 0.9999 * np.linalg.norm(own) * np.linalg.norm(other), name
    counts = numbers_per_channel(executor._symbol, executor.arg_dict['data'].shape)
    for name, value in statistics(module).items():
        # What the step brought: 0.9 of the old value is left in both.
        found, other = (
            (new - 0.9 * before[name].numpy()) for new in (value.numpy(), executor.aux_dict[name].asnumpy())
        )
        if name.endswith('_moving_var'):  # PyTorch's is unbiased
            count = counts[name[: -len('_moving_var')]]
            other = other * count / (count - 1)
        assert_near(found, other, 1e-3)


def doubled(symbol):
    """Return the symbol with its constants, too, in float64."""
    graph = json.loads(symbol.tojson())
    for node in graph['nodes']:
        if node['op'] in ('_arange', '_eye', '_full'):
            node['attrs']['dtype'] = 'float64'
    return mx.sym.load_json(json.dumps(graph))


def both_in_float64(network, **changes):
    """Return (executor, module) in float64.

    In the forms that compute so: MXNet's own PReLU and BilinearResize2D round slopes and weights to float32, which is a
    difference of 1e-7, and that PReLU's gradient of its slopes is wrong (docs/prelu.md).
    """
    settings = {**small(network), **changes}
    symbol = doubled(for_cpu(build(network, **{**PLAIN, **settings, 'net_prelu': 'mul'}), (48, 48), training=True))
    executor = symbol.simple_bind(mx.cpu(), data=(4, 3, 48, 48), type_dict={'data': 'float64'})
    drawn = bind(build(network, **{**PLAIN, **settings}), batch=4, side=48)
    for arrays, others in ((executor.arg_dict, drawn.arg_dict), (executor.aux_dict, drawn.aux_dict)):
        for name, array in arrays.items():
            array[:] = 1 if name in FIXED_GAMMAS else others[name].astype('float64')
    module = symbol_torch.SymbolModule(recorded(network, **changes), (48, 48), dropout=0.0).double()
    module.load_state_dict(weights_of(executor))
    return executor, module.train()


@pytest.mark.parametrize('network', ONE_OF_EACH)
def test_in_float64_nothing_differs(network):
    """Outputs and all gradients of a training step, those of PReLU's slopes among them."""
    executor, module = both_in_float64(network, net_output='FC')
    direction = np.random.RandomState(1).normal(size=executor.outputs[0].shape)
    expected = executor.forward(is_train=True)[0].asnumpy()
    executor.backward(mx.nd.array(direction, dtype='float64'))
    found = module(given(executor))
    assert found.dtype == torch.float64
    assert_near(found, expected, 1e-12)
    (found * torch.tensor(direction)).sum().backward()
    largest = max(np.abs(array.asnumpy()).max() for name, array in executor.grad_dict.items() if name != 'data')
    for name, parameter in parameters(module).items():
        if parameter.requires_grad:
            expected = executor.grad_dict[name].asnumpy()
            # A bias that the next BatchNorm takes out has no gradient but rounding.
            np.testing.assert_allclose(parameter.grad, expected, rtol=1e-9, atol=1e-12 * largest, err_msg=name)
            assert 'relu' not in name or np.abs(expected).max() > 1e-6 * largest


def test_ten_steps_of_sgd_side_by_side():
    executor, module = both_in_float64('cru56', net_output='FC')
    first = {name: value.clone() for name, value in mxnets(module, module.state_dict().items()).items()}
    lr, momentum, decay = 2**-7, 0.875, 2**-11  # numbers that MXNet's optimizer, too, has exactly, in float32
    ours = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr, momentum, weight_decay=decay)
    update = mx.optimizer.get_updater(mx.optimizer.SGD(learning_rate=lr, momentum=momentum, wd=decay))
    trained = sorted(name for name, parameter in parameters(module).items() if parameter.requires_grad)
    for step in range(10):
        images = np.random.RandomState(step).randint(0, 256, (4, 3, 48, 48)).astype(float)
        output = executor.forward(is_train=True, data=mx.nd.array(images, dtype='float64'))[0]
        executor.backward(output / 10)
        for place, name in enumerate(trained):
            update(place, executor.grad_dict[name], executor.arg_dict[name])
        (module((torch.tensor(images) - 127.5) / 127.5).square().sum() / 20).backward()
        ours.step()
        ours.zero_grad()
    for name in trained:
        found, expected = mxnets(module, module.state_dict().items())[name].numpy(), executor.arg_dict[name].asnumpy()
        moved = np.abs(expected - first[name].numpy()).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max(), err_msg=name)
        assert moved > 1e-6 or name.endswith('_beta'), f'{name} is as it was before training'


@pytest.mark.parametrize('how', CHECKPOINTS)
@pytest.mark.parametrize('network', ONE_OF_EACH)
def test_recomputed_maps_change_nothing_and_statistics_move_once(network, how):
    kept = symbol_torch.SymbolModule(recorded(network), (48, 48), dropout=0.0)
    again = symbol_torch.SymbolModule(recorded(network, memonger=True), (48, 48), 0.0, using_checkpoint=how)
    assert len(again._segments) > 10 > len(kept._segments)
    again.load_state_dict(kept.state_dict())
    first = {name: value.clone() for name, value in statistics(kept).items()}
    x = torch.rand((4, 3, 48, 48), generator=torch.Generator().manual_seed(0)) * 2 - 1
    direction = torch.randn((4, kept.size), generator=torch.Generator().manual_seed(1))
    for module in (kept, again):
        (module(x) * direction).sum().backward()
    largest = max(parameter.grad.abs().max() for parameter in kept.parameters() if parameter.grad is not None)
    for (name, parameter), other in zip(parameters(kept).items(), again.parameters()):
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=float(1e-6 * largest), msg=name)
            assert not name.endswith('_weight') or parameter.grad.abs().max() > 1e-3 * largest, name
    for (name, value), other in zip(statistics(kept).items(), statistics(again).values()):
        torch.testing.assert_close(value, other)
        assert not torch.equal(value, first[name])


BEFORE_ATTENTION = ('conv0', 'bn0', 'relu0', 'stage1_unit', 'stage1_attention1_unit')


@pytest.mark.parametrize('how', CHECKPOINTS)
@pytest.mark.parametrize(
    'network, frozen',
    [
        ('cru56', ('conv0', 'bn0', 'relu0', 'stage1')),
        ('cru56', ('stage2_group',)),
        ('cru56', ('stage', 'bn')),
        ('att56', (*BEFORE_ATTENTION, 'stage1_attention1_mask')),
        ('att56', (*BEFORE_ATTENTION, 'stage1_attention1_trunk')),
    ],
)
def test_recomputed_maps_with_frozen_parameters(network, frozen, how):
    """As in a fine-tuning: what is frozen has no gradient, and the others' are as without recomputing."""
    kept = symbol_torch.SymbolModule(recorded(network), (48, 48), dropout=0.0)
    again = symbol_torch.SymbolModule(recorded(network, memonger=True), (48, 48), 0.0, using_checkpoint=how)
    again.load_state_dict(kept.state_dict())
    x, direction = torch.rand((4, 3, 48, 48)), torch.randn((4, kept.size))
    for module in (kept, again):
        for name, parameter in parameters(module).items():
            parameter.requires_grad_(parameter.requires_grad and not name.startswith(frozen))
        (module(x) * direction).sum().backward()
    for (name, parameter), other in zip(parameters(kept).items(), again.parameters()):
        assert (parameter.grad is None) == (other.grad is None) == (not parameter.requires_grad), name
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize('how', CHECKPOINTS)
@pytest.mark.parametrize('network', ONE_OF_EACH)
def test_recomputed_maps_are_not_kept(network, how):
    """Bytes of all tensors that the forward pass keeps for the backward pass, those of parameters left out."""
    found = []
    for again in (False, how):
        nodes = recorded(network, memonger=bool(again))
        module = symbol_torch.SymbolModule(nodes, (48, 48), 0.0, using_checkpoint=again)
        own = {tensor.data_ptr() for tensor in module.state_dict().values()}
        kept = {}
        pack = lambda tensor: kept.update({tensor.data_ptr(): tensor.nbytes}) or tensor  # noqa: B023, E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = module(torch.rand((4, 3, 48, 48)))
        found.append(sum(count for place, count in kept.items() if place not in own))
        assert output.requires_grad
    assert found[1] < 0.4 * found[0]


@pytest.mark.parametrize('how', CHECKPOINTS)
@pytest.mark.parametrize('is_inside', [False, True])
def test_recomputed_maps_under_an_autocast_of_the_users_own(is_inside, how):
    """Computed again in the precision of the first time, also where the backward pass is outside."""
    gradients = []
    for again in (False, how):
        torch.manual_seed(0)
        nodes = recorded('cru56', memonger=bool(again))
        module = symbol_torch.SymbolModule(nodes, (48, 48), 0.0, using_checkpoint=again)
        x = torch.rand((4, 3, 48, 48), generator=torch.Generator().manual_seed(0))
        with torch.autocast('cpu', torch.bfloat16):
            output = module(x).float()
            if is_inside:
                (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
        if not is_inside:
            (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
        gradients.append({name: p.grad for name, p in parameters(module).items() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert gradients[1][name] is not None, name
        if name.endswith('_weight'):
            assert torch.cosine_similarity(gradient.flatten(), gradients[1][name].flatten(), 0) > 0.99, name


def test_a_module_can_be_copied_and_its_state_goes_both_ways():
    module = symbol_torch.SymbolModule(recorded('cru56'), (48, 48)).eval()
    x = torch.rand((2, 3, 48, 48))
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.conv0.weight.zero_()
        assert not torch.equal(other(x), module(x))
        other.load_state_dict(module.state_dict(), strict=True)
        assert torch.equal(other(x), module(x))


def test_first_values_are_those_of_the_hosts_mxnet_trainer():
    """Xavier, gaussian, by the outputs, magnitude 2: as MXNet draws them, up to the generator."""
    torch.manual_seed(0)
    module = symbol_torch.SymbolModule(recorded('cru56'), (48, 48))
    symbol = build('cru56', **{**PLAIN, **small('cru56')})
    shapes, _, _ = symbol.infer_shape(data=(1, 3, 48, 48))
    initial = mx.init.Xavier(rnd_type='gaussian', factor_type='out', magnitude=2)
    attributes, state = symbol.attr_dict(), mxnets(module, module.state_dict().items())
    for name, shape in zip(symbol.list_arguments(), shapes):
        if name == 'data':
            continue
        expected = mx.nd.zeros(shape)
        initial(mx.init.InitDesc(name, attributes.get(name)), expected)
        found, expected = state[name].numpy(), expected.asnumpy()
        assert found.shape == expected.shape
        if name.endswith('_weight'):
            size = expected.size
            assert abs(found.std() / expected.std() - 1) < 6 / np.sqrt(size) and abs(found.mean()) < 1, name
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)
    assert set(state) == {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {'data'}


def test_the_trunk_in_16_bits_and_the_head_in_32():
    module = symbol_torch.SymbolModule(recorded('cru56'), (48, 48), fp16=True).eval()
    exact = symbol_torch.SymbolModule(recorded('cru56'), (48, 48)).eval()
    exact.load_state_dict(module.state_dict())
    x = torch.rand((2, 3, 48, 48))
    with torch.no_grad():
        found, expected = module(x), exact(x)
    assert found.dtype == torch.float32
    assert 1e-4 < float((found - expected).abs().max() / expected.abs().max()) < 0.1


def test_one_graph_for_the_compiler():
    module = symbol_torch.SymbolModule(recorded('cru56'), (48, 48), dropout=0.0, fp16=True)
    compiled = torch.compile(module, backend='eager', fullgraph=True)  # which refuses a second graph
    x = torch.rand((2, 3, 48, 48))
    module.eval()
    torch.testing.assert_close(compiled(x), module(x))
    module.train()
    compiled(x).sum().backward()
    assert module.conv0.weight.grad.abs().max() > 0


def test_the_compiler_does_not_move_the_statistics_twice():
    """It takes no notice of using_checkpoint: what it computes again would move them."""
    module = symbol_torch.SymbolModule(recorded('cru56', memonger=True), (48, 48), 0.0, using_checkpoint=True)
    again, x = copy.deepcopy(module), torch.rand((2, 3, 48, 48))
    torch.compile(module, backend='aot_eager', fullgraph=True)(x).sum().backward()
    again(x).sum().backward()
    for (name, value), other in zip(statistics(module).items(), statistics(again).values()):
        torch.testing.assert_close(value, other, msg=name)


def test_a_symbols_json_is_the_same_network(tmp_path):
    """Also in the forms for MXNet's sake: PReLU by products."""
    executor, module = both('cru56')
    for form in ('op', 'mul'):
        path = str(tmp_path / f'{form}-symbol.json')
        build('cru56', **{**PLAIN, **small('cru56'), 'net_prelu': form}).save(path)
        if form == 'mul':
            with pytest.raises(ValueError, match='the operator _rminus_scalar is not known here'):
                symbol_torch.SymbolModule(symbol_torch.read_json(path), (48, 48))
            continue
        read = symbol_torch.SymbolModule(symbol_torch.read_json(path), (48, 48))
        read.load_state_dict(module.state_dict())
        torch.testing.assert_close(read.eval()(given(executor)), module.eval()(given(executor)))


@pytest.mark.parametrize('content', ['', '[]', '{"nodes": [], "heads": [[0, 0, 0]]}', '{"nodes": 1}'])
def test_what_is_no_symbol_is_refused(tmp_path, content):
    (tmp_path / 'x.json').write_text(content)
    with pytest.raises(ValueError, match=r'x\.json is not a symbol'):
        symbol_torch.read_json(str(tmp_path / 'x.json'))


def changed_json(tmp_path, change):
    """Return the path of a plain JSON of a narrow cru56 to which `change` was done, {name: node}."""
    graph = json.loads(build('cru56', **{**PLAIN, **small('cru56')}).tojson())
    change({node['name']: node for node in graph['nodes']}, graph)
    with open(str(tmp_path / 'x.json'), 'w') as file:
        json.dump(graph, file)
    return str(tmp_path / 'x.json')


@pytest.mark.parametrize(
    'node, name, renamed',
    [
        ('dropout0', "d=__import__('os').system('touch made')", None),
        (
            'conv0_weight',
            'w")if getattr(__import__("os"),"system")("touch made")else getattr(self, "w',
            'w__if_getattr___import____os____system____touch_made__else_getattr_self___w',
        ),
        ('conv0_weight', 'conv0.weight', 'conv0_weight'),
        ('conv0_weight', 'conv3_x_1_c1x1-w(s/1)_weight', 'conv3_x_1_c1x1_w_s_1__weight'),
        ('conv0_weight', 'bn0-gamma', 'bn0_gamma_2'),
        ('conv0_weight', '1st', '_1st'),
        ('conv0', 'lambda', None),
        ('conv0_weight', 'unit1_lambda_weight', 'unit1_lambda_weight'),
        ('dropout0', 'unit1_class', None),
        ('dropout0', 'unit1_2', None),
        ('dropout0', 'forward', None),
        ('dropout0', 'stage1_unit1_training', None),
        ('conv0_weight', 'size_weight', 'size_weight'),
        ('dropout0', 'stage1', None),
        ('dropout0', 'stage1_unit1_', None),
        ('dropout0', 'stage9_forward', None),
        ('dropout0', 'half', None),
        ('conv0_weight', 'self', '_self'),
        ('conv0_weight', 'größe', 'gr__e'),
    ],
)
def test_no_name_in_a_json_is_executed(node, name, renamed, tmp_path, monkeypatch):
    """Names that could not stand in code are changed; the network computes the same."""
    monkeypatch.chdir(tmp_path)
    path = changed_json(tmp_path, lambda nodes, graph: nodes[node].update(name=name))
    module = symbol_torch.SymbolModule(symbol_torch.read_json(path), (48, 48)).eval()
    names = set(module.state_dict())
    assert all(part.isidentifier() for name in names for part in name.split('.'))
    assert renamed is None or {torch_name(renamed), module.own_name(renamed)} & names
    _, expected = both('cru56')
    assert len(names) == len(expected.state_dict())
    first = expected.state_dict()
    first[renamed or 'conv0_weight'] = first.pop('conv0.weight')
    module.load_state_dict(first)
    images = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(module(images), expected.eval()(images))
    assert os.listdir('.') == ['x.json']


def test_names_that_a_json_cannot_have(tmp_path):
    path = changed_json(tmp_path, lambda nodes, graph: nodes['conv0_weight'].update(name='bn0_gamma'))
    with pytest.raises(ValueError, match='of one name'):
        symbol_torch.SymbolModule(symbol_torch.read_json(path), (48, 48))


@pytest.mark.parametrize(
    'node, attrs, words',
    [
        ('conv0', {'layout': 'NHWC'}, r'conv0 \(Convolution\): layout=NHWC is not known here'),
        ('bn0', {'axis': '3'}, r'bn0 \(BatchNorm\): axis=3'),
        ('relu0', {'act_type': 'rrelu'}, r"relu0 \(LeakyReLU\): KeyError: 'rrelu'"),
        ('conv0', {'num_filter': '0'}, r'conv0 \(Convolution\): '),
        ('conv0', {'num_filter': '1e99'}, r'conv0 \(Convolution\): '),
        ('pre_fc1', {'flatten': 'False'}, r'flatten=False'),
        ('dropout0', {'mode': 'always'}, r'mode=always'),
    ],
)
def test_what_a_json_says_and_is_not_known_here_is_refused(node, attrs, words, tmp_path):
    path = changed_json(tmp_path, lambda nodes, graph: nodes[node]['attrs'].update(attrs))
    with pytest.raises(ValueError, match=words):
        symbol_torch.SymbolModule(symbol_torch.read_json(path), (48, 48))


def test_a_json_without_layers_or_marks(tmp_path):
    path = changed_json(tmp_path, lambda nodes, graph: graph.update(heads=[[0, 0, 0]]))
    with pytest.raises(ValueError, match='is not a network: its output is a variable'):
        symbol_torch.read_json(path)
    path = changed_json(tmp_path, lambda nodes, graph: graph.update(heads=[[1, 0, 0]]))
    with pytest.raises(ValueError, match='has no layers'):
        symbol_torch.SymbolModule(symbol_torch.read_json(path), (48, 48))
    path = changed_json(tmp_path, lambda nodes, graph: None)
    with pytest.raises(ValueError, match='was not built with memonger'):
        symbol_torch.get_model(f'{path}:memonger=True')


def test_a_module_in_16_bits_throughout():
    """Without fp16, its type is the user's: half() computes the head in half precision, too."""
    module = symbol_torch.SymbolModule(recorded('cru56'), (48, 48)).bfloat16().eval()
    assert module(torch.zeros((2, 3, 48, 48), dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize('network', ('cru56', 'att56'))
def test_recomputed_maps_in_16_bits(network):
    """The gradients of the trunk in bfloat16 with recomputed maps are those without."""
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        module = symbol_torch.SymbolModule(
            recorded(network, memonger=again), (48, 48), 0.0, using_checkpoint=again, fp16=True
        )
        x = torch.rand((4, 3, 48, 48), generator=torch.Generator().manual_seed(0))
        (module(x) * torch.linspace(-1, 1, 4 * module.size).reshape(4, -1)).sum().backward()
        found.append({name: parameter.grad for name, parameter in parameters(module).items()})
    for name, gradient in found[0].items():
        if name.endswith('_weight'):
            assert torch.cosine_similarity(gradient.flatten(), found[1][name].flatten(), 0) > 0.999, name


def test_recording_leaves_everything_as_it_was():
    import sys

    before, path = dict(sys.modules), list(sys.path)
    recorded('cru56')
    assert dict(sys.modules) == before and sys.path == path and sys.modules['mxnet'] is mx


def test_a_choice_is_the_network_of_its_row():
    module = symbol_torch.choice(SYMBOLS, host.network['ires50'], net_multiplier=0.125)
    assert module.fc1.bias.shape == (512,)
    with pytest.raises(ValueError, match='net_unit=7 is not known'):
        symbol_torch.choice(SYMBOLS, host.network['cru56'], net_unit=7)


@pytest.mark.parametrize('network', ('cru116', 'att92', 'ires50'))
def test_multiply_adds_are_the_published_ones(network):
    """By PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    from netkit.graph.counts import count_macs

    module = symbol_torch.choice(SYMBOLS, host.network[network])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros((1, 3, 112, 112)))
    assert counter.get_total_flops() == 2 * count_macs(build(network), (112, 112, 3))


# ------------------------------------------------------------------------------------ in insightface


def test_get_model_by_the_hosts_convention():
    module = symbol_torch.get_model('cru56:net_multiplier=0.125', dropout=0.0, fp16=True, num_features=24)
    assert module.fp16 and not module.using_checkpoint and module.fc1.bias.shape == (24,)
    module.train()
    x = torch.rand((2, 3, 112, 112))
    assert not torch.equal(module(x), module(x))  # the recipe's Dropout
    module = symbol_torch.get_model('cru56:net_multiplier=0.125,dropout=0.0,memonger=True', num_features=24)
    assert module.using_checkpoint and torch.equal(module.train()(x), module(x))


def test_the_layout_is_channels_last():
    """By measurement (docs/gpu.md); the name may say otherwise, and what is computed is the same."""
    x = torch.rand((2, 3, 112, 112)) * 2 - 1
    name = 'cru56:net_multiplier=0.25'
    plain = symbol_torch.get_model(name + ',channels_last=False', num_features=24).eval()
    last = symbol_torch.get_model(name, num_features=24).eval()
    last.load_state_dict(plain.state_dict())
    assert_near(last(x), plain(x).detach().numpy(), 1e-5)
    assert last.channels_last and not plain.channels_last
    assert not symbol_torch.get_model(TINY).channels_last  # PyTorch would write beyond its memory
    for module, layout in ((plain, torch.contiguous_format), (last, torch.channels_last)):
        assert module.stage1.unit1.conv2.weight.is_contiguous(memory_format=layout)
        assert module.stage1.unit2.conv2.weight.is_contiguous(memory_format=layout)


def test_a_setting_of_several_numbers():
    """As the tools take it, netkit.networks.parse."""
    name = TINY + ',net_std=(58.0,57.0,57.5),dropout=0.0'
    assert symbol_torch.parsed(name)[1]['net_std'] == parse(name)[1]['net_std'] == (58.0, 57.0, 57.5)
    assert symbol_torch.parsed(name)[1]['dropout'] == 0.0
    with pytest.raises(TypeError, match='fp17'):
        symbol_torch.SymbolModule(recorded('cru56'), (48, 48), fp17=True)


def test_weights_to_start_from(tmp_path):
    """Of a model.pt, of a checkpoint_gpu_0.pt, and of a JSON, which may have a path with a colon."""
    first = symbol_torch.get_model(TINY, num_features=24)
    state, x = first.state_dict(), torch.rand((2, 3, 112, 112))
    folder = tmp_path / 'C: drive'
    folder.mkdir()
    torch.save(state, str(tmp_path / 'model.pt'))
    parallel = {f'module.{key}': value for key, value in state.items()}
    torch.save({'epoch': 1, 'state_dict_backbone': parallel}, str(tmp_path / 'checkpoint_gpu_0.pt'))
    build('cru56', **{**PLAIN, 'net_multiplier': 0.125, 'emb_size': 24}).save(str(folder / 'x-symbol.json'))
    for name in (
        f'{TINY},pretrained={tmp_path}/model.pt',
        f'{TINY},pretrained={tmp_path}/checkpoint_gpu_0.pt,memonger=True',
        f'{folder}/x-symbol.json:pretrained={tmp_path}/model.pt',
    ):
        assert symbol_torch.is_known(name)
        module = symbol_torch.get_model(name, num_features=24)
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
        assert torch.equal(module.eval()(x), first.eval()(x))
    with pytest.warns(UserWarning, match='has embeddings of 24 numbers, not 512'):
        symbol_torch.get_model(f'{folder}/x-symbol.json')
    with pytest.raises(ValueError, match=r'net_unit: what .*x-symbol\.json says cannot be changed'):
        symbol_torch.get_model(f'{folder}/x-symbol.json:net_unit=2')


@pytest.mark.parametrize('content', [b'', b'PK', b'\x80\x04.', 'other', 'call'], ids=str)
def test_weights_that_are_none(tmp_path, content):
    path = tmp_path / 'x.pt'
    if content == 'other':
        torch.save(symbol_torch.get_model('ires50:net_multiplier=0.125').state_dict(), str(path))
    elif content == 'call':
        torch.save({'a': print}, str(path))
    else:
        path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r'x\.pt (is not a state dict|has not the weights of this network: [\w.]+ has)'
    ) as error:
        symbol_torch.get_model(f'{TINY},pretrained={path}')
    assert len(str(error.value)) < 400 and str(error.value).count('\n') == 0
    with pytest.raises(ValueError, match=r'cannot read .*nowhere\.pt: No such file'):
        symbol_torch.get_model(f'{TINY},pretrained={tmp_path}/nowhere.pt')


def test_functions_of_the_first_arcface_torch():
    """Before get_model: eval('backbones.' + network)(False, dropout=0, fp16=False)."""
    found = symbol_torch.functions()
    assert sorted(found) == sorted(FACE_NETWORKS)
    assert found['ires50'](False, dropout=0, fp16=False).fc1.bias.shape == (512,)


@pytest.mark.parametrize(
    'name, words',
    [
        ('cru57', "there is no network 'cru57'; choose from cru56, cru116"),
        ('cru56_imagenet', "there is no network 'cru56_imagenet'"),
        ('cru56:width', "'width' is not SETTING=VALUE"),
        ('cru56:net_multiplier=-1', 'net_multiplier=-1 is not legal'),
        ('cru56:colour=1', 'colour is not a setting'),
        ('cru56:memonger=no', 'memonger=no is neither True nor False'),
        ('cru56:channels_last=7', 'channels_last=7 is neither True nor False'),
        ('cru56:dropout=abc', 'dropout=abc is not a number'),
        ('cru56:dropout=1', 'dropout=1 is not a number of at least 0 and below 1'),
        ('cru56:dropout=True', 'dropout=True is not a number'),
        ('cru56:fp16=True', 'fp16 is not a setting of a name; config.fp16 says it'),
        ('cru56:self=1', 'self is not a setting of a name'),
        ('cru56:using_checkpoint=True', 'using_checkpoint is not a setting of a name'),
        ('nowhere.json', 'cannot read nowhere.json: No such file'),
    ],
)
def test_get_model_names_what_there_is(name, words):
    with pytest.raises(ValueError, match=words):
        symbol_torch.get_model(name)
    assert symbol_torch.is_known('cru56:x=1') and symbol_torch.is_known('x.json') and not symbol_torch.is_known('r50')


def test_copied_by_hand_into_the_hosts_folder(tmp_path):
    """As docs/arcface-torch.md has it: one folder, no config, no MXNet."""
    import shutil
    import subprocess
    import sys

    folder = tmp_path / 'backbones' / 'crunet'
    shutil.copytree(os.path.join(ROOT, 'backbones', 'crunet'), str(folder))
    (folder.parent / '__init__.py').write_text('')
    shutil.copy(os.path.join(ROOT, 'config', 'networks.py'), str(folder))
    for name in ('face_blocks', 'face_settings', 'fcrunet', 'fresattention', 'firesnet'):
        shutil.copy(os.path.join(SYMBOLS, name + '.py'), str(folder))
    code = (
        "import sys; sys.modules['mxnet'] = None\n"
        'from backbones.crunet.symbol_torch import get_model\n'
        "import torch; print(tuple(get_model('ires50:net_multiplier=0.125')(torch.zeros(2, 3, 112, 112)).shape))\n"
        "assert sys.modules['mxnet'] is None"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=str(tmp_path), timeout=PATIENCE
    )
    assert done.stdout == '(2, 512)\n', done.stderr


# -------------------------------------------------------------------------------- cru116, written by hand


def mxnet_name(name):
    """Return MXNet's name of a parameter of netkit.measure.cru116_by_hand.Cru116."""
    layer, kind = name.rpartition('.')[::2]
    kinds = {'running_mean': 'moving_mean', 'running_var': 'moving_var', 'bias': 'beta', 'weight': 'gamma'}
    kind = 'weight' if 'conv' in layer or layer == 'fc' else kinds[kind]
    kind = 'bias' if name == 'fc.bias' else kind
    ends = {'fc': 'pre_fc1', 'features': 'fc1'}
    parts = layer.split('.')
    if parts[0] != 'stages':
        return f'{ends.get(layer, layer)}_{kind}'
    stage, unit, *rest = int(parts[1]) + 1, int(parts[2]), *parts[3:]
    is_collective = stage in (2, 3)
    if rest[0] == 'convs':
        place = int(rest[1]) + 1
        if is_collective and place < 3:
            return f'stage{stage}_group{unit // 6 + 1}_conv{place}_weight'
        return f'stage{stage}_unit{unit + 1}_conv{place}_weight'
    where = {'bns': 'bn%d', 'relus': 'relu%d'}.get(rest[0])
    own = where % (int(rest[1]) + 2) if where else rest[0]
    if rest[-1] == 'conv':
        own = 'project' if is_collective else 'shortcut'
    if rest[-1] == 'bn':
        own = rest[0] + '_bn'
    return f'stage{stage}_unit{unit + 1}_{own}_{kind}'


def test_cru116_written_by_hand():
    """An implementation that shares nothing with ours: same parameters, embeddings and gradients."""
    from netkit.measure.cru116_by_hand import Cru116

    by_hand = Cru116(24, 0.25, dropout=0.0)
    module = symbol_torch.get_model('cru116:net_multiplier=0.25,dropout=0.0', num_features=24)
    state = by_hand.state_dict()
    ours = {mxnet_name(name): value for name, value in state.items() if not name.endswith('num_batches_tracked')}
    with torch.no_grad():
        for name, value in ours.items():
            if not name.endswith(('weight', '_var')) and name != 'fc1_gamma':
                value += torch.rand_like(value) * 0.3
    module.load_state_dict(ours, strict=True)
    module, by_hand, x = module.double(), by_hand.double(), torch.rand((2, 3, 112, 112)).double() * 2 - 1
    for training in (False, True):
        found, expected = module.train(training)(x), by_hand.train(training)(x)
        assert_near(found, expected.detach().numpy(), 1e-12)
    direction = torch.randn(found.shape)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    largest = max(parameter.grad.abs().max() for parameter in by_hand.parameters() if parameter.grad is not None)
    for name, parameter in by_hand.named_parameters():
        if parameter.requires_grad:
            own = parameters(module)[mxnet_name(name)].grad
            torch.testing.assert_close(own, parameter.grad, rtol=1e-8, atol=1e-12 * float(largest), msg=name)
