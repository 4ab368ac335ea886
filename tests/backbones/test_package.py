"""The package `crunet`: one line to a network, and to the folder that shares it."""

import functools
import json
import os
import pathlib
import re
import sys

import numpy as np
import pytest

from config.networks import NETWORKS

torch = pytest.importorskip('torch')

from PIL import Image  # noqa: E402

from crunet import symbol_torch  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NARROW = {'net_multiplier': 0.25}


@pytest.fixture(scope='module')
def crunet():
    """The package, as torch.hub makes it of a checkout."""
    before = dict(sys.modules)
    torch.hub.load(ROOT, 'cru56', source='local', **NARROW)
    yield sys.modules['crunet']
    for name in set(sys.modules) - set(before):
        if name.partition('.')[0] in ('crunet', 'hubconf'):
            del sys.modules[name]


def images(count=2):
    return torch.rand((count, 3, 112, 112), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_networks_are_those_of_the_table(crunet):
    assert crunet.list_models() == list(NETWORKS)
    assert crunet.list_models('cru*') == ['cru56', 'cru116', 'cru56_imagenet', 'cru116_imagenet']


def test_a_model_is_that_of_get_model(crunet, tmp_path):
    path = str(tmp_path / 'model.pt')
    expected = symbol_torch.get_model('cru56:net_multiplier=0.25,net_act=relu', num_features=24).eval()
    torch.save(expected.state_dict(), path)
    model = crunet.create_model('cru56', pretrained=path, num_features=24, net_act='relu', **NARROW).eval()
    np.testing.assert_array_equal(model(images()).detach(), expected(images()).detach())
    assert crunet.create_model('cru116', **NARROW).size == 256  # as published
    assert crunet.create_model('cru56_imagenet', num_features=10, **NARROW).size == 10
    masked = crunet.create_model('att56_imagenet', **NARROW).eval()  # its masks are made for one size
    assert masked(torch.rand(1, 3, 224, 224)).shape == (1, 1000)


def test_a_model_is_shared_as_a_folder(crunet, tmp_path):
    """Of which other programs read the weights and the config."""
    from safetensors.torch import load_file

    folder = str(tmp_path / 'a folder')
    model = crunet.create_model('cru56', num_features=24, net_origin='release', image_shape=(112, 96, 3), **NARROW)
    for statistic in filter(torch.is_floating_point, model.buffers()):
        statistic.uniform_(0.5, 1.5)
    model.eval().save_pretrained(folder)
    assert sorted(os.listdir(folder)) == ['config.json', 'model.safetensors']
    again = crunet.create_model(folder).eval()
    x = torch.rand(2, 3, 112, 96)
    np.testing.assert_array_equal(again(x).detach(), model(x).detach())
    assert {name: of.shape for name, of in load_file(f'{folder}/model.safetensors').items()} == {
        name: of.shape for name, of in model.state_dict().items()
    }
    with open(f'{folder}/config.json', encoding='utf-8') as file:
        config = json.load(file)
    assert config.pop('settings') == {
        'net_multiplier': 0.25,
        'net_origin': 'release',
        'image_shape': [112, 96, 3],
        'emb_size': 24,
    }
    assert config == {'network': 'cru56', 'num_features': 24, 'mean': [0.5] * 3, 'std': [0.5] * 3}
    other = crunet.create_model(folder, dropout=0.5, memonger=True)
    assert other.using_checkpoint


@pytest.mark.parametrize('content', [None, '', '[]', '{"network": 3, "settings": {}}', '{"network": "cru56"}'])
def test_a_folder_that_is_none(crunet, tmp_path, content):
    if content is not None:
        (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match='cannot read .*config.json' if content is None else 'is not a config of'):
        crunet.create_model(str(tmp_path))


@pytest.mark.parametrize(
    'name, settings, words',
    [
        ('cru57', {}, "there is no network 'cru57'; choose from cru56, cru116"),
        ('cru56', {'net_multiplyer': 1}, 'net_multiplyer is not a setting'),
        ('cru56', {'dropout': 2}, 'dropout=2 is not a number'),
        ('cru56', {'memonger': 'no'}, 'memonger=no is neither True nor False'),
        ('cru56', {'pretrained': 'nowhere.pt', **NARROW}, 'cannot read nowhere.pt'),
        ('cru56', {'pretrained': True}, 'there are no pretrained weights of cru56; pass the path'),
        (pathlib.Path('nowhere'), {}, "there is no network 'nowhere'"),
    ],
)
def test_what_is_refused(crunet, name, settings, words):
    with pytest.raises(ValueError, match=words):
        crunet.create_model(name, **settings)


def test_settings_in_the_name(crunet, tmp_path, monkeypatch):
    one = crunet.create_model('cru56:net_multiplier=0.125,emb_size=16')
    assert one.size == 16 and one.config['settings'] == {'net_multiplier': 0.125, 'emb_size': 16}
    torch.save(one.state_dict(), str(tmp_path / 'x.pt'))
    path = str(tmp_path / 'x.pt')
    two = crunet.create_model(f'cru56:net_multiplier=0.125,pretrained={path}', num_features=16)
    assert torch.equal(one.fc1.weight, two.fc1.weight)
    with pytest.raises(ValueError, match='num_features and settings such as net_origin must be those of the training'):
        crunet.create_model('cru56:net_multiplier=0.125', pretrained=path)
    torch.save(one.state_dict(), str(tmp_path / 'y.pt'))
    torch.save({'layer1.0.weight': torch.zeros(1)}, path)
    with pytest.raises(ValueError, match='has other names than this network, such as layer1.0.weight; tools/import'):
        crunet.create_model('cru56', pretrained=path)
    two = crunet.create_model(
        f'cru56:net_multiplier=0.125,emb_size=16,pretrained={path}', pretrained=str(tmp_path / 'y.pt')
    )
    assert torch.equal(one.fc1.weight, two.fc1.weight)  # what is passed counts
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(ValueError, match='x.safetensors: .*; run pip install safetensors'):
        crunet.create_model('cru56', pretrained='x.safetensors')


def test_a_picture_becomes_the_input(crunet, tmp_path):
    """By hand: (x - 127.5) / 127.5, of RGB, channels first; whatever the picture is given as."""
    pixels = np.random.RandomState(0).randint(0, 256, (112, 112, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(str(tmp_path / 'face.png'))
    expected = ((pixels.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)
    for image in (pixels, torch.from_numpy(pixels), Image.fromarray(pixels), str(tmp_path / 'face.png')):
        np.testing.assert_array_equal(crunet.transform(image), expected)
    grey = Image.new('L', (50, 70), 255)
    assert crunet.transform(grey, (112, 96)).shape == (3, 112, 96) and (crunet.transform(grey) == 1).all()
    for wrong in (pixels[:100], pixels.astype(np.float32)):
        with pytest.raises(ValueError, match=r'an image is \(height, width, 3\) uint8'):
            crunet.transform(wrong)


def snippet(*path):
    """Return the first lines of Python in a page that import the package."""
    with open(os.path.join(ROOT, *path), encoding='utf-8') as file:
        return re.search(r'```python\n(import crunet.*?)```', file.read(), re.DOTALL).group(1)


def test_from_two_photographs_to_a_cosine(crunet, tmp_path, monkeypatch, capsys):
    """The lines of docs/arcface-torch.md: one face, upright and turned, which differ by the rounding of its pixels."""
    pixels = np.full((300, 300, 3), 128, np.uint8)
    points = np.array([(120.0, 120.0), (180.0, 120.0), (150.0, 150.0), (130.0, 190.0), (170.0, 190.0)])
    for x, y in points.astype(int):
        pixels[y - 9 : y + 9, x - 9 : x + 9] = (x, y, 250)
    Image.fromarray(pixels).save(str(tmp_path / 'upright.png'))
    Image.fromarray(pixels).rotate(90).save(str(tmp_path / 'turned.png'))
    turned = np.column_stack([points[:, 1], 299 - points[:, 0]])
    photographs = [(str(tmp_path / 'upright.png'), points), (str(tmp_path / 'turned.png'), turned)]
    create = functools.partial(crunet.create_model, **NARROW)
    torch.save(create('cru116', num_features=512).state_dict(), str(tmp_path / 'model.pt'))
    monkeypatch.setattr(crunet, 'create_model', create)
    monkeypatch.chdir(tmp_path)
    code = snippet('docs', 'arcface-torch.md')
    names = {'photographs': photographs}
    exec(code, names)

    faces = [crunet.transform(crunet.align(path, points)) for path, points in photographs]
    one, other = names['model'](torch.stack(faces)).detach().double().numpy()
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert float(re.search(r'[\d.]+', capsys.readouterr().out).group()) == pytest.approx(cosine, abs=1e-4)
    noise = np.random.RandomState(1).randint(0, 256, (300, 300, 3)).astype(np.uint8)
    Image.fromarray(noise).save(str(tmp_path / 'noise.png'))
    exec(code, {'photographs': [photographs[0], (str(tmp_path / 'noise.png'), points)]})
    other = names['model'](crunet.transform(crunet.align(noise, points))[None])[0].detach().double().numpy()
    unlike = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    printed = float(re.search(r'-?[\d.]+', capsys.readouterr().out).group())
    assert printed == pytest.approx(unlike, abs=1e-4) and unlike < 0.99
    difference = (faces[0] - faces[1]).abs()
    assert difference.mean() < 0.01 < 0.1 < faces[0].std() and cosine > 0.999
    left_eye = faces[0][:, 52, 38] * 127.5 + 127.5  # where ArcFace has it
    np.testing.assert_allclose(left_eye, (120, 120, 250), atol=1)
    for image in (pixels, Image.fromarray(pixels)):
        assert np.array_equal(crunet.align(image, points), crunet.align(*photographs[0]))
    with pytest.raises(ValueError, match='landmarks that coincide'):
        crunet.align(pixels, np.ones((5, 2)))
    for wrong in (points.ravel(), points[:4], points * np.nan):
        with pytest.raises(ValueError, match=r'landmarks are 5 points \(x, y\), finite numbers'):
            crunet.align(pixels, wrong)


def test_the_first_lines_of_the_readme(crunet, capsys):
    code = snippet('README.md')
    exec(code, {})
    printed = capsys.readouterr().out.strip()
    assert printed == 'torch.Size([2, 256])' and f'# {printed}' in code


def test_a_photograph_says_how_it_is_turned(crunet, tmp_path):
    """As a path and as an image that Pillow has opened."""
    pixels = np.random.RandomState(0).randint(0, 256, (112, 112, 3)).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # its first row is the right side
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2)[::-1])).save(
        str(tmp_path / 'turned.png'), exif=turned
    )
    expected = crunet.transform(pixels)
    assert torch.equal(crunet.transform(str(tmp_path / 'turned.png')), expected)
    with Image.open(str(tmp_path / 'turned.png')) as image:
        assert torch.equal(crunet.transform(image), expected)
    assert torch.equal(crunet.transform(pixels[:, :, ::-1]), expected.flip(0))
    with pytest.raises(ValueError, match='8 bits a channel, not the mode I;16'):
        crunet.transform(Image.fromarray(np.zeros((112, 112), np.uint16)))


def test_an_aligned_face_is_smooth(crunet):
    """Halfway between two pixels is their mean."""
    pixels = np.zeros((112, 112, 3), np.uint8)
    pixels[:, 1::2] = 200
    moved = np.asarray(crunet.align(pixels, crunet_template() + (0.5, 0)))
    assert np.abs(moved[20:90, 20:90].astype(int) - 100).max() <= 1


def crunet_template():
    from crunet.alignment import TEMPLATE

    return TEMPLATE


def test_a_folder_does_not_take_the_place_of_a_network(crunet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'cru56').mkdir()
    assert crunet.create_model('cru56', num_features=24, **NARROW).size == 24
    (tmp_path / 'it').mkdir()
    (tmp_path / 'it' / 'config.json').write_text('{"network": "cru56", "settings": {"net_multiplier": 0.25}}')
    with pytest.raises(ValueError, match='cannot read it/model.safetensors: .*o such file'):
        crunet.create_model('it')


def test_a_folder_is_written_or_not(crunet, tmp_path):
    model = crunet.create_model('cru56', num_features=np.int64(24), **NARROW)
    model.save_pretrained(str(tmp_path / 'a'))
    assert crunet.create_model(tmp_path / 'a').size == 24
    model.config['settings']['net_multiplier'] = object()
    with pytest.raises(TypeError):
        model.save_pretrained(str(tmp_path / 'b'))
    assert os.listdir(str(tmp_path / 'b')) == []


def test_a_network_without_a_name_is_not_shared(tmp_path):
    with pytest.raises(ValueError, match='make it with crunet.create_model'):
        symbol_torch.get_model('cru56:net_multiplier=0.25').save_pretrained(str(tmp_path / 'x'))
    assert not (tmp_path / 'x').exists()


def test_raw_images_are_refused(crunet):
    with pytest.raises(TypeError, match=r'\(x - 127.5\) / 127.5 with a fraction, not torch.uint8'):
        crunet.create_model('cru56', **NARROW)(torch.zeros((1, 3, 112, 112), dtype=torch.uint8))
