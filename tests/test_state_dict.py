"""The reader and the writer of PyTorch's state dicts; `tests/backbones` has them against PyTorch itself."""

import base64
import io
import os
import pathlib
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest

from netkit import state_dict

# What torch.save of PyTorch 2.4.1 wrote of {'state_dict': …, 'epoch': 3}: tensors in channels_last, a part of a longer
# one, in float16 and bfloat16, an integer, a Parameter, one without numbers; as text, because it is small.
WRITTEN = zlib.decompress(
    base64.b85decode(
        r"""
c-o~_%WoS+7#}}kyPJ?lL#fLn1SsG@;;i56k~Yp#7OF+UF-2N&aW?i6uh@G1t;a!tka8fU+yV!LdO$t$5K>PS$NUQ%C>#+zlmmYR-
|Qyt&ZHrsS!wjmuIKldZ|D2gbv+g*B$Xluu1Rv5m|m-
6Z(56OlbYGyhmNL>llQr6EBYCbj3FVQPfcny+jfgWq}6gA$7)gA?e?X2ytd_8?aTO!1kt$$#4^S-
0<O93fn#M`Zg*2|eq`Aj9SZRlbx}0i98lZoOHI#OAJ|U2Nv&?*^_rV`2}Uv*BkAk8p1EN`B7jJm<C^r{;GqObBZ6yWNEtDVt=<4m>1hhms!lR`
M33oFJx*aXqo?t1Opj3*`?AB#Jw{=?0TagP1BX4+qcGV);ZC9x5a(d3b4pK8IK7HYv2B>vBirzJKyik`6Ad^Urs$Z?2apaZ_WZtukA`;7`K)<(
5?P}Zo<f^?bQ_*#tj`3jGZda}z^pO$fOXw7?JhjW(W-tPa^)fQ^FDO}UO;Nx=6ObqhF@gVF9p;uQ^+)6E==8W2VDxUaMW+R-Hjpbt3GWJ=8-
l+VF799<^sAbg~bNQ#w3?Q^O{914|0dR;o%Ai@?5G*PzaJz+)GM{IWGrN6$(lNsyF<b3tzx%4Oj~2z3X-
@xXAI9;S%x@3d@WSb8#JNcpf6xVI|;HDZJi*%L8KsS6e-|)qywk*dSZild0dU3+6vjLfEJuT02wZ%&>OWKc<$;DnL`GgyO-=u_<*d#=L#;-
nj%~**KheoLu6na#7aQ3kPYBeeKb%5VFO_GS)rD8#qXfkXej7IBGbTF@DR|;Jk+M78^LPWBeY+F3#65-
p27K&U+YtSz$YS^Ujr<Ye=|u#Lmw1JIiV6EIFQk=9~FtKAFE;HKu!Z=l)k|{2_gW?mVxX*VN3hGfEV)%d|fK!Pr3o5<fz##%mQcb?F3e5A~PH?
iGKxou5Cw`UvNzc(U`8+~Z{qdUx-
;Ofq$ZgC*WUNmCW_=;xQc`>kcBzq6Y7jn^l~(J!Aw|L}cIkm;e$rsehVQ>dvEqEJC%&VT)G<2`IBB>JD3n<4ojW7fCcw>;Z)>`zSgp>5i2P0jw
#o#cv&B9|(aYNe`_D`lmUE0uCezAERc1*NFS`BF(PRAiaC?EZA~UIu++e3ubscIY$Q7bg!m7yn0y=y30w;*d)*a<G$%@Nk0}=iuMOh|n%YY`97
A*j`+~=0t3`=y~klA~r8#!{y3juZ{@Vf`|<l8jrmzVv8a+TqHc!NC?={KK9{d6u$ltv1L&=e8eX>Y%NK|LJ`5?lQ+YGzYc*PUK4dak(l4FpxD9
?IV!{-gRK%JwcpVaeslXv3hpERvynuA8THo(YySnNqjt;
""".replace('\n', '')
    )
)

# Likewise of {'state_dict': …, 'epoch': 3, 'optimizer': …}, in the format before zip archives, and each name with the
# `module.` in front that DataParallel puts there.
OLD = zlib.decompress(
    base64.b85decode(
        r"""
c-nPTOLN;)6uy@1I91a&P#!7I@OF3@Tb3W;Wv7&+MQxg>Jj5fYigX=`ktH4JDo|!TlTAv@iX|{zblD|K*yRVne_+cDe}EYloGUqr-BIt%^||->==;v|?g>
9g-hX#i|6Tn0-o}OMo^b7N5r2n3D*8MjB#Z(USb=Bk(kONV9|~xopTU1TmobkT)VE#J2jM`MP|0qE)QH{hXbj>IiWR+t%Ge1a1|?O{MZCE_gBi7`7db}Y?
?72CCdm;e2Z@=<sA0PngTfGmihdrIgTPKaTD1ayw`P1p-5rO4Xt5x&oT`y9*NY`1qT7k<*#@J297M*hETIb(y_{kOk-0;mlzk$tdV$GqWJ(EU^s{KQ+~~B
MN~_aoHkvgB%Bj0nn82*Mu+HGrrb;SmK^0X&Ei#ZQ>H^;8RFT2yk%c+(sKqcvv2;DMX+-Ty7=Z+HOB$SEa8`qJ`stHELKAZ`@1TE9$(i79)|O?tDc4)@kT
a`F$oudn5{mn9UM=jyBO`|cKFZ)R4IZBabWE=g3mM=z$jhiYj`6|-M;%!jN?V2}kV8O@Cowiv*oUV$$I}_dGYp>9U{Rkt;n<E$*N5k(NG_(SthbJdp1+Ss
R$2<YfJ7n^y~v3$n3p)w%Nfxt3@REdO%ho_f^G8Z6wy^|mSd9FCMu>VvW!)e;dLY_Ajum@vb2<eR~fviK`m|Olhm67%4h`j2Q<*Jg#>a=iRxG%xq~HYjMJ
x#)7RutwKC#1gN_Ev2kGUl@8N9?-kGeIANUmBeE@o+ttjvwq7y{#a&*kvZRlb16>h^y#&D6r`x;zI(jlW^U^(!CD(a{37KF?l;21`*I)t_H81k`#%R{)Lk
|BJkpG$oiP@g3OV>{{h(OS*%N2xEjTMZnDtK(>|jiX)X(O%Dd*<i4#ffmPU71R6~J5i8?G2GaKkB0DZMHl$QNASs7_xGRq`bD3eZ~;DD>;CfxUw@_{*ybR
lzKaipu96frn|i~hmU#<4LnZ&*r!m$k*oDtW8JziT8aaG1N(a9mMAXF0e7T;6WV<|0By`PfkHXd{O-(<EsSRJP>oZ5r$6##1O_i95nLbWi{Bg=@xkBE{A>
@s-m^T*1yrC@RwOVe6l=I3oOREKvt@2ndkg2so$R6KaLgrB(;3hpn7E%6)yNBl*%AdFmo_i?o@{Q*Wl=pBS;`t`ZUvdA1=Md#@E7BAV$LF{lkK^#~`FGr&
`!K&E9+`H@;gz0nbnB2qVG1QhO4t4R{{hD+yCV
""".replace('\n', '')
    )
)


def save(path, pickled, names=(), **storages):
    """Write an archive like torch.save's."""
    with zipfile.ZipFile(str(path), 'w') as archive:
        archive.writestr('x/data.pkl', pickled)
        for key, values in storages.items():
            archive.writestr(f'x/data/{key[1:]}', values.tobytes())
        for name in names:
            archive.writestr(name, b'')
    return str(path)


@pytest.mark.parametrize('content', [WRITTEN, OLD], ids=['archive', 'old'])
def test_what_pytorch_wrote(tmp_path, content):
    (tmp_path / 'x.pt').write_bytes(content)
    found = state_dict.read(str(tmp_path / 'x.pt'))
    expected = {
        'conv0_weight': np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4),
        'part': np.array([2, 3, 4], np.float32),
        'half': np.array([0.5, -2], np.float16),
        'brain': np.array([0.5, -2, 3.140625], np.float32),
        'count': np.array(7),
        'parameter': np.ones(2, np.float32),
        'none': np.zeros((0, 3), np.float32),
    }
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)


def test_what_is_written_is_read(tmp_path):
    arrays = {'ä b': np.random.RandomState(0).normal(size=(3, 2, 1, 4)), 'c': np.array(2.5), 'd': np.zeros((0, 2))}
    state_dict.write(str(tmp_path / 'x.pt'), arrays)
    found = state_dict.read(str(tmp_path / 'x.pt'))
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array.astype(np.float32))
    with zipfile.ZipFile(str(tmp_path / 'x.pt')) as archive:  # the same file every time
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


@pytest.mark.parametrize('content', [WRITTEN, OLD], ids=['archive', 'old'])
@pytest.mark.parametrize('share', [0, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_ends_too_early(tmp_path, share, content):
    (tmp_path / 'x.pt').write_bytes(content[: int(share * len(content))])
    with pytest.raises(state_dict.Malformed):
        state_dict.read(str(tmp_path / 'x.pt'))


class Call:
    """Something whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize('function', [eval, print, open, __import__])
def test_nothing_in_a_file_is_executed(tmp_path, function, capsys):
    path = save(tmp_path / 'x.pt', pickle.dumps({'a': Call(function, str(tmp_path / 'made'))}))
    with pytest.raises(state_dict.Malformed, match='which is not a tensor'):
        state_dict.read(path)
    assert not (tmp_path / 'made').exists() and capsys.readouterr().out == ''


def one_tensor(offset, size, stride, count=6, kind=b'storage', of_class=b'ctorch\nFloatStorage\n'):
    """Return the pickle of {'a': a tensor of the storage 0}."""
    text = state_dict._text
    storage = (
        state_dict._tuple(text(kind.decode()), of_class, text('0'), text('cpu'), b'J' + struct.pack('<i', count)) + b'Q'
    )
    arguments = [storage, b'J' + struct.pack('<i', offset), state_dict._numbers(size), state_dict._numbers(stride)]
    call = b'ctorch._utils\n_rebuild_tensor_v2\n' + state_dict._tuple(*arguments, b'\x89', b'N') + b'R'
    return b'\x80\x02}' + state_dict._text('a') + call + b's.'


def test_the_tensor_of_these_tests(tmp_path):
    values = np.arange(6, dtype=np.float32)
    path = save(tmp_path / 'x.pt', one_tensor(1, (2, 2), (1, 3)), _0=values)
    np.testing.assert_array_equal(state_dict.read(path)['a'], [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    'tensor',
    [
        dict(offset=0, size=(7,), stride=(1,)),
        dict(offset=4, size=(3,), stride=(1,)),
        dict(offset=-1, size=(3,), stride=(1,)),
        dict(offset=0, size=(2, 2), stride=(5, 1)),
        dict(offset=5, size=(3,), stride=(-1,)),
        dict(offset=0, size=(-1, -3), stride=(1, 1)),
        dict(offset=0, size=(2**30, 2**30), stride=(0, 0)),
        dict(offset=0, size=(3,), stride=(1, 1)),
        dict(offset=0, size=(3,), stride=(1,), count=7),
        dict(offset=0, size=(3,), stride=(1,), count=-1),
        dict(offset=0, size=(3,), stride=(1,), kind=b'module'),
        dict(offset=0, size=(3,), stride=(1,), of_class=b'K\x01'),
    ],
    ids=str,
)
def test_a_tensor_that_is_none(tmp_path, tensor):
    path = save(tmp_path / 'x.pt', one_tensor(**tensor), _0=np.arange(6, dtype=np.float32))
    with pytest.raises(state_dict.Malformed):
        state_dict.read(path)


def test_a_tensor_without_a_name(tmp_path):
    pickled = one_tensor(0, (3,), (1,)).replace(state_dict._text('a'), b'K\x01')
    with pytest.raises(state_dict.Malformed, match='something that has no name'):
        state_dict.read(save(tmp_path / 'x.pt', pickled, _0=np.zeros(6, np.float32)))


def test_a_name_that_would_take_ages_to_compare(tmp_path):
    """A tuple of itself twice, 45 times over, and one that is a hundred thousand deep: C code would hash them."""
    for name in (b')' + b'2\x86' * 45, b')' + b'\x85' * 100_000):
        for opened, closed in ((b'}', b'Ns.'), (b'}(', b'Nu.'), (b'ccollections\nOrderedDict\n)R', b'Ns.')):
            with pytest.raises(state_dict.Malformed, match='no state dict'):
                state_dict.read(save(tmp_path / 'x.pt', b'\x80\x02' + opened + name + closed))
        for pickled in (b'(' + name + b'Nd.', b'\x8f(' + name + b'\x90.', b'(' + name + b'\x91.'):
            with pytest.raises(state_dict.Malformed):
                state_dict.read(save(tmp_path / 'x.pt', b'\x80\x04' + pickled))


def test_numbers_whose_hashes_collide(tmp_path):
    """A hundred thousand of them would take minutes, as keys or as what a pickle remembers."""
    numbers = [number * (2**61 - 1) for number in range(1, 100_000)]
    keys = b''.join(b'L%dL\nN' % number for number in numbers)
    memo = b''.join(b'p%d\n' % number for number in numbers)
    for pickled, words in (
        (b'\x80\x02}(' + keys + b'u.', 'no state dict'),
        (b'\x80\x02}' + memo + b'.', 'more than a file'),
    ):
        with pytest.raises(state_dict.Malformed, match=words):
            state_dict.read(save(tmp_path / 'x.pt', pickled))


def save_old(path, pickled, keys, *storages, magic=state_dict.OLD_MAGIC, protocol=state_dict.OLD_PROTOCOL):
    """Write a file of the format before zip archives; `storages` are (count, values)."""
    parts = [pickle.dumps(part, protocol=2) for part in (magic, protocol, {'little_endian': True})]
    parts += [pickled, pickle.dumps(keys, protocol=2)]
    parts += [struct.pack('<q', count) + values.tobytes() for count, values in storages]
    path.write_bytes(b''.join(parts))
    return str(path)


def test_a_file_of_the_old_format_that_is_none(tmp_path):
    values, tensor = np.arange(6, dtype=np.float32), one_tensor(1, (2, 2), (1, 3))
    path = tmp_path / 'x.pth'
    np.testing.assert_array_equal(state_dict.read(save_old(path, tensor, ['0'], (6, values)))['a'], [[1, 4], [2, 5]])
    for pickled, keys, count in (
        (tensor, ['0'], 7),
        (tensor, ['0'], 2**62),
        (tensor, ['0'], -1),
        (tensor, ['0'], 5),
        (tensor, ['1'], 6),
        (tensor, [], 6),
        (tensor, 3, 6),
        (one_tensor(1, (2, 2), (1, 3), kind=b'module'), ['0'], 6),
        (one_tensor(4, (3,), (1,)), ['0'], 6),
    ):
        with pytest.raises(state_dict.Malformed):
            state_dict.read(save_old(path, pickled, keys, (count, values)))
    with pytest.raises(state_dict.Malformed, match='it does not begin as one'):
        state_dict.read(save_old(path, tensor, ['0'], (6, values), magic=state_dict.OLD_MAGIC - 1))
    with pytest.raises(state_dict.Malformed, match='it does not begin as one'):
        state_dict.read(save_old(path, tensor, ['0'], (6, values), protocol=1002))
    with pytest.raises(state_dict.Malformed, match='which is not a tensor'):
        state_dict.read(
            save_old(path, pickle.dumps({'a': Call(open, str(tmp_path / 'made'), 'w')}, 2), [], (6, values))
        )
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('first, length', [(2, 3), (0, 6), (4, 3), (-1, 3), (2, -1), (0, 7)])
def test_a_storage_that_is_a_part_of_another(tmp_path, first, length):
    """Which the old format allows."""
    numbers = state_dict._numbers
    view = b'(' + state_dict._text('v') + numbers((first, length))[1:-1] + b't'
    plain = state_dict._text('cpu') + b'J' + struct.pack('<i', 6)
    pickled = one_tensor(0, (2,), (1,)).replace(plain, plain + view)
    path = save_old(tmp_path / 'x.pth', pickled, ['0'], (6, np.arange(6, dtype=np.float32)))
    if 0 <= first <= first + length <= 6:
        np.testing.assert_array_equal(state_dict.read(path)['a'], [first, first + 1])
    else:
        with pytest.raises(state_dict.Malformed, match='has a part beyond its end'):
            state_dict.read(path)


def test_a_storage_that_would_take_ages_to_compare(tmp_path):
    """In place of a storage, a tuple of itself twice, 45 times over."""
    tensor, doubled = one_tensor(0, (3,), (1,)), b')' + b'2\x86' * 45
    for part in (state_dict._text('0'), b'J' + struct.pack('<i', 6)):  # the key, and the count
        pickled = tensor.replace(part, doubled)
        for path in (save(tmp_path / 'x.pt', pickled), save_old(tmp_path / 'y.pth', pickled, [])):
            with pytest.raises(state_dict.Malformed, match='it holds something that is not a tensor'):
                state_dict.read(path)
    start, end = tensor.index(b'v2\n(') + 4, tensor.index(b'Q') + 1
    pickled = tensor[:start] + doubled + tensor[end:]
    for path in (save(tmp_path / 'x.pt', pickled), save_old(tmp_path / 'y.pth', pickled, [])):
        with pytest.raises(state_dict.Malformed, match='it holds a tensor without a storage'):
            state_dict.read(path)
    key = ()
    for _ in range(45):
        key = key, key  # shared, so that the pickle is small
    with pytest.raises(state_dict.Malformed, match='it holds a storage that has no name'):
        state_dict.read(save_old(tmp_path / 'z.pth', tensor, [key], (6, np.zeros(6, np.float32))))


def test_numbers_of_a_machine_that_is_big_endian(tmp_path):
    values = np.arange(6, dtype='>f4')
    path = save(tmp_path / 'x.pt', one_tensor(0, (6,), (1,)), _0=values)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('x/byteorder', b'big')
    np.testing.assert_array_equal(state_dict.read(path)['a'], np.arange(6))


def test_the_backbone_of_a_checkpoint_of_all_states(tmp_path):
    """arcface_torch's checkpoint_gpu_0.pt; and a name that begins like those of DataParallel by chance."""
    pickled = one_tensor(0, (6,), (1,))
    inner = pickled[2:-1].replace(state_dict._text('a') + b'c', state_dict._text('module.a') + b'c')
    other = inner.replace(state_dict._text('module.a'), state_dict._text('b'))
    both = b'}(' + inner[1:-1] + other[1:-1] + b'u'
    for content, names in ((inner, ['a']), (both, ['module.a', 'b'])):
        wrapped = b'\x80\x02}(' + state_dict._text('epoch') + b'K\x01' + state_dict._text('state_dict_backbone')
        path = save(tmp_path / 'x.pt', wrapped + content + b'u.', _0=np.ones(6, np.float32))
        assert list(state_dict.read(path)) == names


class Run:
    """Something that a trainer saves next to its weights; its pickle calls functions and sets its state."""

    def __init__(self, path):
        self.epoch, self.calls, self.numbers = 3, Call(open, path, 'w'), [np.float64(0.5), np.zeros(3)]

    def __getstate__(self):
        return self.__dict__, {'set by name': self.calls}


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('way', ['state_dict', 'model', 'state_dict_ema', 'model in state_dict'])
def test_what_trainers_save_beside_the_weights_is_passed_over(way, protocol, tmp_path):
    """And not called; of averaged weights and others, the averaged are taken."""
    made, tensor = str(tmp_path / 'made'), one_tensor(0, (6,), (1,))[2:-1]
    run = pickle.dumps([Run(made), {'a': Run(made)}, {1: 2}, {None: 1, 1.5: {(1, 2): 3}}], protocol)
    run = run[2 + 9 * (protocol == 4) : -1]  # without its head and its end
    text = state_dict._text
    named = text('state_dict_ema' if way == 'state_dict_ema' else way.split()[0]) + tensor
    if way == 'model in state_dict':
        named = text('state_dict') + b'}(' + text('model') + tensor + b'u'
    if way == 'state_dict_ema':
        named += text('state_dict') + tensor.replace(text('a'), text('b'))
    pickled = b'\x80\x04}(' + text('run') + run + named + text('epoch') + b'K\x01u.'
    found = state_dict.read(save(tmp_path / 'x.pt', pickled, _0=np.ones(6, np.float32)))
    assert list(found) == ['a'] and not os.path.exists(made)


def test_an_empty_wrapping_is_passed_over(tmp_path):
    """As of averaged weights that were never averaged; and one that keeps them a step further in."""
    tensor, text = one_tensor(0, (6,), (1,))[2:-1], state_dict._text
    for averaged in (b'}', b'}(' + text('decay') + b'K\x01' + text('module') + tensor + b'u'):
        pickled = b'\x80\x02}(' + text('model_ema') + averaged + text('state_dict') + tensor + b'u.'
        assert list(state_dict.read(save(tmp_path / 'x.pt', pickled, _0=np.ones(6, np.float32)))) == ['a']


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', '_orig_mod.module.', 'module._orig_mod.'])
def test_prefixes_of_all_names(prefix, tmp_path):
    text = state_dict._text
    pickled = one_tensor(0, (6,), (1,)).replace(text('a') + b'c', text(prefix + 'a') + b'c')
    assert list(state_dict.read(save(tmp_path / 'x.pt', pickled, _0=np.ones(6, np.float32)))) == ['a']


def test_a_whole_module_is_told(tmp_path):
    with pytest.raises(state_dict.Malformed, match=r'it holds a \S*Run, and no state dict; save model.state_dict\(\)'):
        state_dict.read(save(tmp_path / 'x.pt', pickle.dumps(Run('x'))))


def test_safetensors(tmp_path):
    """As its own library writes and reads them, with bfloat16; and damaged."""
    numpy, path = pytest.importorskip('safetensors.numpy'), str(tmp_path / 'x.safetensors')
    arrays = {'module.a': np.arange(6, dtype=np.float32).reshape(2, 3), 'module.b': np.ones(4, np.float16)}
    numpy.save_file(arrays, path)
    found = state_dict.read(path)
    assert sorted(found) == ['a', 'b'] and all(np.array_equal(found[key[7:]], arrays[key]) for key in arrays)
    state_dict.write(path, found)
    assert all(np.array_equal(values, found[name]) for name, values in numpy.load_file(path).items())
    content = (tmp_path / 'x.safetensors').read_bytes()
    (tmp_path / 'x.safetensors').write_bytes(content.replace(b'"F32"', b'"I32"', 1))
    assert state_dict.read(path)['a'].dtype == np.int32 or state_dict.read(path)['b'].dtype == np.int32
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / 'x.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header + b'\x80\x3f\x00\xc0')
    np.testing.assert_array_equal(state_dict.read(path)['a'], [1, -2])
    for damaged in (
        content[:20],
        content[:-4],
        b'',
        content[:8] + b'x' + content[9:],
        content.replace(b'"F32"', b'"F8"', 1),
    ):
        (tmp_path / 'x.safetensors').write_bytes(damaged)
        with pytest.raises(state_dict.Malformed):
            state_dict.read(path)


@pytest.mark.parametrize(
    'content', [{}, [], 3, {'a': 1}, {'state_dict': {'a': 'b'}}, {1: 2}, {'state_dict': {}}], ids=str
)
def test_what_is_no_state_dict(tmp_path, content):
    with pytest.raises(state_dict.Malformed):
        state_dict.read(save(tmp_path / 'x.pt', pickle.dumps(content)))


def test_views_that_would_fill_the_memory(tmp_path):
    """A hundred of one storage, none the same, that are copied because they are not contiguous."""
    values, torch_pickle = np.arange(20_000, dtype=np.float32), one_tensor(0, (9_000,), (2,), count=20_000)
    head, tensor = torch_pickle[:3], torch_pickle[3:-2]
    for count, is_read in ((3, True), (100, False)):
        named = [
            tensor.replace(state_dict._text('a'), state_dict._text(f'a{number}')).replace(
                b'J' + struct.pack('<i', 0), b'J' + struct.pack('<i', number)
            )
            for number in range(count)
        ]
        path = save(tmp_path / 'x.pt', head + b''.join(part + b's' for part in named) + b'.', _0=values)
        if is_read:
            assert [list(array[:2]) for array in state_dict.read(path).values()] == [[0, 2], [1, 3], [2, 4]]
        else:
            with pytest.raises(state_dict.Malformed, match='would have 3,600,000 bytes, and the file has'):
                state_dict.read(path)


def test_members_that_lie_within_each_other(tmp_path):
    """A storage that is listed a thousand times."""
    values = np.zeros(50_000, np.float32)
    path = save(tmp_path / 'x.pt', one_tensor(0, (6,), (1,), count=50_000), _0=values)
    content = pathlib.Path(path).read_bytes()
    begin = content.index(b'PK\x01\x02')
    end = content.rindex(b'PK\x05\x06')
    listed = content[begin:end] * 1000
    count = len(listed) // (end - begin) * 2
    tail = content[end : end + 8] + struct.pack('<HHIIH', count, count, len(listed), begin, 0)
    pathlib.Path(path).write_bytes(content[:begin] + listed + tail)
    with pytest.raises(state_dict.Malformed, match='compressed'):
        state_dict.read(path)


def test_other_archives(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('x/data.pkl', one_tensor(0, (6,), (1,)))
        archive.writestr('x/data/0', bytes(24))
    (tmp_path / 'x.pt').write_bytes(buffer.getvalue())
    with pytest.raises(state_dict.Malformed, match='compressed'):
        state_dict.read(str(tmp_path / 'x.pt'))
    for pickled in (b'', b'\x80\x02}', b'\x80\x02h\x05.'):
        with pytest.raises(state_dict.Malformed):
            state_dict.read(save(tmp_path / 'y.pt', pickled))
    with pytest.raises(state_dict.Malformed):
        state_dict.read(save(tmp_path / 'z.pt', one_tensor(0, (6,), (1,)), ['y/data.pkl'], _0=np.zeros(6, np.float32)))
    with pytest.raises(FileNotFoundError):
        state_dict.read(str(tmp_path / 'nowhere.pt'))
