"""The stand-alone config keeps insightface's contract."""

import pytest

import config as host
import fresattention
from config import config, dataset, default, generate_config, loss, network


def test_choices():
    assert {'cru56', 'cru116', 'att56', 'att92'} <= set(network)
    assert {'emore', 'retina', 'faces'} <= set(dataset)
    assert set(loss) == {'softmax', 'nsoftmax', 'arcface', 'cosface', 'combined'}
    assert network.cru116.per_batch_size == 80 and network.cru116.emb_size == 256


@pytest.mark.parametrize('name', list(network))
def test_generate_config(name):
    generate_config(name, 'emore', 'arcface')
    assert (config.network, config.dataset, config.loss) == (name, 'emore', 'arcface')
    for key, value in network[name].items():
        assert config[key] == value
        if key in default:
            assert default[key] == value
    assert config.num_classes == 85742 and config.loss_m2 == 0.5
    assert default.per_batch_size == network[name].per_batch_size


@pytest.mark.parametrize('key', ['net_resize', 'net_groups'])
def test_a_setting_of_earlier_versions_is_named(key):
    generate_config('att92', 'emore', 'arcface')
    config[key] = 'op'
    with pytest.raises(ValueError, match=f'^{key} is no longer a setting; remove it from the config'):
        fresattention.get_symbol()


def test_nothing_is_left_of_the_choice_before():
    generate_config('cru116', 'emore', 'arcface')
    generate_config('att92', 'retina', 'softmax')
    assert fresattention.get_symbol().infer_shape(data=(1, 3, 112, 112))[1] == [(1, 512)]  # 256 in cru116
    for key in ('emb_size', 'loss_s'):
        assert not hasattr(config, key) and key not in config


@pytest.mark.parametrize(
    'names, words',
    [
        (('cru57', 'emore', 'arcface'), "there is no network 'cru57'; choose from cru56, "),
        (('cru56', 'casia', 'arcface'), "there is no dataset 'casia'; choose from emore"),
        (('cru56', 'emore', 'triplet'), "there is no loss 'triplet'; choose from softmax"),
    ],
)
def test_unknown_names(names, words):
    before = dict(host.config)
    with pytest.raises(ValueError) as caught:
        generate_config(*names)
    assert str(caught.value).startswith(words)
    assert dict(host.config) == before
