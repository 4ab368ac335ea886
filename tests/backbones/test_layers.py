"""What PyTorch's own tools do with the layers of a network; each test reads a number."""

import copy
import multiprocessing

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from crunet import symbol_torch  # noqa: E402
from crunet.identifiers import mxnet_names, torch_name  # noqa: E402
from crunet.layers import LAYERS  # noqa: E402
from crunet.nodes import record  # noqa: E402

NARROW = {name: f'{name}:net_multiplier=0.25,dropout=0.0' for name in ('cru56', 'cru116', 'att56', 'ires50')}


def network(name='cru56', **options):
    torch.manual_seed(0)
    return symbol_torch.get_model(NARROW[name], num_features=24, **options)


def images(count=4):
    return torch.rand((count, 3, 112, 112), generator=torch.Generator().manual_seed(1)) * 2 - 1


def norms(module):
    return [layer for layer in module.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize('name', NARROW)
def test_parameters_are_in_the_order_of_the_network(name):
    """As arcface_torch keeps an optimiser's state; nodes are recorded in that order."""
    module = network(name)
    row = symbol_torch.networks()[name]
    settings = {key: row[key] for key in ('num_layers', 'num_group') if key in row}
    nodes = record('symbols', row['net_name'], net_multiplier=0.25, net_prelu='op', **settings)
    read = [nodes[place].name for node in nodes for place, _ in node.inputs if node.op in LAYERS]
    expected = [name for name in dict.fromkeys(read) if 'moving' not in name]
    names = mxnet_names({name: tensor.ndim for name, tensor in module.state_dict().items()})
    found = [names[name] for name, _ in module.named_parameters()]
    assert found == [name for name in expected if name in set(found)] and len(found) > 100
    wrapped = torch.nn.Sequential(module)  # as in DistributedDataParallel
    assert [id(parameter) for parameter in wrapped.parameters()] == [id(of) for of in module.parameters()]


def test_shared_weights_stand_once_and_stay_one():
    """In a state dict, in a copy, where another is assigned, and on a device that is only now chosen."""
    module, x = network('cru116').eval(), images()
    shared = [name for name in module.state_dict() if 'group' in name]
    nodes = record('symbols', 'fcrunet', num_layers=116, net_multiplier=0.25, net_prelu='op')
    assert sorted(shared) == sorted(
        torch_name(node.name) for node in nodes if node.op == 'null' and 'group' in node.name
    )
    assert shared == [name for name, _ in module.named_parameters() if 'group' in name] != []
    expected, state = module(x).detach(), module.state_dict()
    others = copy.deepcopy(network('cru116')), network('cru116').to('meta').to_empty(device='cpu')
    for other in others:
        other.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        np.testing.assert_array_equal(other.eval()(x).detach(), expected)
        assert len(list(other.parameters())) == len(list(module.parameters()))
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.get_parameter(shared[0]).zero_()
        assert (changed(x) - expected).abs().max() > 1e-3 * expected.abs().max()


def test_names_of_earlier_versions_within_a_larger_module():
    module, other = network(), network()
    names = mxnet_names({name: tensor.ndim for name, tensor in module.state_dict().items()})
    with torch.no_grad():
        for tensor in [*module.parameters(), *filter(torch.is_floating_point, module.buffers())]:
            tensor.add_(0.5)
    earlier = {f'0.{names[name]}': tensor for name, tensor in module.state_dict().items() if name in names}
    torch.nn.Sequential(other).load_state_dict(earlier, strict=True)
    assert all(torch.equal(other.state_dict()[name], module.state_dict()[name]) for name in names)


def test_recomputed_maps_are_counted_once():
    torch.manual_seed(0)
    module = symbol_torch.get_model(NARROW['cru56'] + ',memonger=True', num_features=24).train()
    module(images()).sum().backward()
    assert {int(norm.num_batches_tracked) for norm in norms(module)} == {1}


def replica_of(module):
    """Return what `torch.nn.parallel.replicate` makes of a module for another GPU, on the CPU."""
    layers = list(module.modules())
    copies = {layer: layer._replicate_for_data_parallel() for layer in layers}
    for layer, copied in copies.items():
        for name, child in layer._modules.items():
            setattr(copied, name, copies[child])
        for name, parameter in layer._parameters.items():
            if parameter is None:
                copied._parameters[name] = None
            else:
                setattr(copied, name, parameter.view_as(parameter))
        for name, buffer in layer._buffers.items():
            setattr(copied, name, buffer)
    return copies[module]


@pytest.mark.parametrize('memonger', [False, True, 'torch'])
def test_gradients_of_a_replica_of_data_parallel(memonger):
    """Its layers have tensors in place of parameters."""
    gradients = []
    for make in (lambda module: module, replica_of):
        module = symbol_torch.get_model(NARROW['cru56'] + f',memonger={memonger}', num_features=24, dropout=0.0).train()
        module.load_state_dict(network('cru56').state_dict())
        make(module)(images()).square().sum().backward()
        gradients.append({name: of.grad for name, of in module.named_parameters() if of.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_on_the_device_that_is_asked_for():
    with torch.device('meta'):
        module = network()
    assert {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]} == {'meta'}
    module.load_state_dict(network().state_dict(), assign=True)
    np.testing.assert_array_equal(module.eval()(images()).detach(), network().eval()(images()).detach())


def test_statistics_stand_still_where_batch_norms_are_frozen():
    module = network().train()
    for norm in norms(module):
        norm.eval()
    before = {name: tensor.clone() for name, tensor in module.named_buffers()}
    module(images()).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.named_buffers())
    module.train()(images())
    assert not any(torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) for norm in norms(module))


def test_statistics_of_averaged_weights():
    """Those of the first BatchNorm are the means over the batches, by hand."""
    module, batches = network(), [images(4), images(4) / 2]
    torch.optim.swa_utils.update_bn(batches, module)
    with torch.no_grad():
        first = [module.conv0(batch * 127.5 / 128) for batch in batches]
    expected = torch.stack([maps.mean((0, 2, 3)) for maps in first]).mean(0)
    np.testing.assert_allclose(module.bn0.running_mean, expected, rtol=0, atol=1e-6)
    assert {int(norm.num_batches_tracked) for norm in norms(module)} == {2}


def test_an_average_of_weights():
    """Over two steps, by hand; shared weights are averaged once."""
    module = network('cru116')
    name = next(name for name, _ in module.named_parameters() if 'group' in name)
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)
    before = module.get_parameter(name).detach().clone()
    with torch.no_grad():
        module.get_parameter(name).add_(1)
    average.update_parameters(module)
    torch.testing.assert_close(average.module.get_parameter(name).detach(), before + 0.1)


def test_products_by_pytorchs_own_counter():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device('meta'):
        module, x = symbol_torch.get_model('cru56', num_features=256).eval(), torch.empty(1, 3, 112, 112)
        with FlopCounterMode(display=False) as counter:
            module(x)
    assert counter.get_total_flops() / 2 == pytest.approx(5.639e9, abs=5e5)  # docs/networks.md


def test_every_batch_norm_is_synchronised():
    module = network('att56')
    count = len(norms(module))
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert len([layer for layer in norms(converted) if isinstance(layer, torch.nn.SyncBatchNorm)]) == count > 100


class SumsOnCpu(torch.nn.SyncBatchNorm):
    """SyncBatchNorm by its definition, from sums of all processes: PyTorch's own computes on GPUs alone."""

    def forward(self, x):
        from torch.distributed.nn import functional

        dims, shape = ((0, 2, 3), (-1, 1, 1)) if x.ndim == 4 else ((0,), (-1,))
        count = torch.full_like(self.running_mean, x[:, 0].numel())
        total, squares, count = functional.all_reduce(torch.stack([x.sum(dims), x.square().sum(dims), count]))
        mean, variance = total / count, squares / count - (total / count) ** 2
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        x = (x - mean.view(shape)) / (variance + self.eps).sqrt().view(shape)
        return x * self.weight.view(shape) + self.bias.view(shape)


@pytest.mark.parametrize('memonger', [False, True])
def test_two_processes_share_their_statistics(memonger, tmp_path):
    torch.multiprocessing.spawn(in_sync, (str(tmp_path / 'store'), memonger), 2)


def in_sync(rank, store, memonger):
    """Take a step of half a batch next to another process, and of the whole batch alone."""
    distributed = torch.distributed
    torch.set_num_threads(1)
    distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    torch.manual_seed(0)
    name = NARROW['cru56'] + f',memonger={memonger}'
    module = symbol_torch.get_model(name, num_features=24).double().train()
    alone = copy.deepcopy(module)
    module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for norm in norms(module):
        if isinstance(norm, torch.nn.SyncBatchNorm):
            norm.__class__ = SumsOnCpu
    x, direction = images(4).double(), torch.randn((4, 24), generator=torch.Generator().manual_seed(2)).double()
    half = slice(2 * rank, 2 * rank + 2)
    (module(x[half]) * direction[half]).sum().backward()
    (alone(x) * direction).sum().backward()
    for (name, one), two in zip(module.named_buffers(), alone.buffers()):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9, msg=name)
    gradient = module.conv0.weight.grad.clone()
    distributed.all_reduce(gradient)
    torch.testing.assert_close(gradient, alone.conv0.weight.grad, rtol=1e-6, atol=1e-9)
    assert not torch.equal(alone.bn0.running_mean, torch.zeros_like(alone.bn0.running_mean))
    distributed.destroy_process_group()


@pytest.mark.parametrize('memonger', [False, True])
def test_a_whole_module_is_saved_and_sent_to_a_process(memonger, tmp_path):
    torch.manual_seed(0)
    module = symbol_torch.get_model(NARROW['cru56'] + f',memonger={memonger}', num_features=24).eval()
    torch.save(module, str(tmp_path / 'whole.pt'))
    expected = module(images()).detach().numpy()
    context = multiprocessing.get_context('spawn')
    answer = context.Queue()
    process = context.Process(target=computed_here, args=(module, answer))
    process.start()
    np.testing.assert_allclose(answer.get(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    process.join()
    again = torch.load(str(tmp_path / 'whole.pt'), weights_only=False)
    np.testing.assert_array_equal(again(images()).detach(), expected)
    again.train()(images()).sum().backward()
    assert again.conv0.weight.grad.abs().max() > 0


def computed_here(module, answer):
    """Compute in another process, which has got the module itself."""
    answer.put(module(images()).detach().numpy())


def test_maps_by_hooks_and_by_torchvision():
    feature_extraction = pytest.importorskip('torchvision.models.feature_extraction')
    module, maps = network().eval(), []
    hook = module.get_submodule('stage2.unit1.conv2').register_forward_hook(lambda *given: maps.append(given[2]))
    expected = module(images())
    hook.remove()
    extract = feature_extraction.create_feature_extractor(module, ['stage2.unit1.conv2', 'fc1'])
    found = extract(images())
    torch.testing.assert_close(found['stage2.unit1.conv2'], maps[0])
    torch.testing.assert_close(found['fc1'], expected)
    assert maps[0].shape[2:] == (28, 28)


def penalty(module, x):
    """Return the squared length of the gradient by the images of a sum of the embeddings."""
    embeddings = module(x)
    weights = torch.linspace(-1, 1, embeddings.numel(), dtype=x.dtype).reshape(embeddings.shape)
    (gradient,) = torch.autograd.grad((embeddings * weights).sum(), x, create_graph=True)
    return gradient.square().sum()


@pytest.mark.parametrize('memonger', [False, 'torch'])
def test_a_penalty_of_gradients(memonger):
    """Its own gradient is that of differences."""
    torch.manual_seed(0)
    name = NARROW['cru56'].replace('dropout', f'net_act=relu,memonger={memonger},dropout')
    module, x = symbol_torch.get_model(name, num_features=24).double().train(), images(4).double().requires_grad_()
    penalty(module, x).backward()
    weight, step = module.pre_fc1.weight, 1e-5
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).double()
    found = (weight.grad * direction).sum()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        values.append(float(penalty(module, x)))
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    assert float(found) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4) and abs(found) > 1e-9


def test_a_graph_is_used_twice_by_torchs_own_checkpoint():
    torch.manual_seed(0)
    module = symbol_torch.get_model(NARROW['cru56'] + ',memonger=torch', num_features=24).train()
    embeddings = module(images())[:, 0].square().sum()
    embeddings.backward(retain_graph=True)
    once = module.conv0.weight.grad.clone()
    embeddings.backward()
    torch.testing.assert_close(module.conv0.weight.grad, 2 * once)
    assert {int(norm.num_batches_tracked) for norm in norms(module)} == {1}


def test_gradients_by_function():
    module, x = network().double().eval(), images(2).double()

    def loss(parameters):
        return torch.func.functional_call(module, parameters, (x,)).sum()

    parameters = {name: of.detach() for name, of in module.named_parameters()}
    found = torch.func.grad(loss)(parameters)
    module.zero_grad()
    module(x).sum().backward()
    torch.testing.assert_close(found['conv0.weight'], module.conv0.weight.grad)


def test_half_of_the_weights_are_pruned():
    from torch.nn.utils import prune

    module, x = network().eval(), images()
    expected = module(x)
    prune.l1_unstructured(module.stage1.unit1.conv1, 'weight', 0.5)
    assert (module.stage1.unit1.conv1.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert (module(x) - expected).abs().max() > 1e-3 * expected.abs().max()


def test_it_prints_its_layers():
    text = str(network('cru116'))
    assert '(group1): Module(' in text and '(conv2): SharedConv2d(' in text and text.count('Conv2d(') > 60
