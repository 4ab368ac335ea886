"""A network in training: its weights, its steps, its state.

All that this project knows about how MXNet trains is here, in terms of executors, a kvstore and an updater. `mx.mod.Module`
is not used: it keeps a second copy of the weights, saves that one, and lets it go stale without a word when anything but
Module changes the first. Here the devices' arrays are the only copies.
"""
import copy

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError

# What the order of random numbers, the updater's states and the moving statistics were checked with.
WRITTEN_FOR = '1.9.1'
DROPOUT = 3  # what the random numbers are for, beside the seed: the data set has 0 to 2


def all_finite(arrays):
    """Tell whether no number is infinite or NaN; MXNet's operator crashes with more than 200 arrays."""
    return all(mx.nd.multi_all_finite(*arrays[start:start + 200], num_arrays=len(arrays[start:start + 200])).asscalar()
               for start in range(0, len(arrays), 200))


class Trainer:
    """A symbol with its loss, bound for training on `contexts`, and the SGD that changes its weights.

    The symbol has inputs `data` (n, 3, height, width) and `softmax_label` (n,), and outputs (embedding, class
    probabilities). The `batch_size` images of a step are shared out in order: to the workers of `kvstore`, of which this
    is one, by whoever reads them, and here to the devices. `steps` counts those that are done.
    """

    def __init__(self, symbol, contexts, batch_size, image_shape, kvstore, seed=0, loss_scale=1.0, **sgd):
        """Bind; the weights are still to come, by `initialize` or `load_state`.

        `sgd` are options of mx.optimizer.SGD. `loss_scale` is the factor that the symbol's loss has on the gradients;
        where it is not 1 a step whose gradients are not finite is left out. Raises UserError under another MXNet.
        """
        if mx.__version__ != WRITTEN_FOR:
            raise UserError(f'training here is written for MXNet {WRITTEN_FOR}, this is {mx.__version__}; install requirements.txt')
        self.symbol, self.contexts, self.kvstore, self.seed = symbol, contexts, kvstore, seed
        self.steps, self.may_overflow = 0, loss_scale != 1
        inputs = {'data': (batch_size // len(contexts), 3) + tuple(image_shape[:2]),
                  'softmax_label': (batch_size // len(contexts),)}
        self.names = [name for name in symbol.list_arguments() if name not in inputs]
        self.executors = [symbol.simple_bind(context, {name: 'write' if name in self.names else 'null'
                                                       for name in symbol.list_arguments()},
                                             dict.fromkeys(inputs, np.float32), **inputs) for context in contexts]
        # SoftmaxOutput averages over the images of a device; the gradients of devices and workers are summed.
        summed = len(contexts) * kvstore.num_workers * loss_scale
        self.sgd = dict(sgd, sym=symbol, rescale_grad=1.0 / summed, param_idx2name={
            self._index(place, device): name for place, name in enumerate(self.names) for device in range(len(contexts))})
        self.updater = self._updater()
        # The kvstore only sums. With the optimiser in it, or on its servers, nobody could save the momentum.
        self.sums = len(contexts) > 1 or kvstore.type.startswith('dist')
        if self.sums:
            for name in self.names:
                kvstore.init(name, self.executors[0].arg_dict[name])

    def __del__(self):
        """Wait for what the kvstore still has to sum: MXNet frees it under the hands of its threads (SIGFPE)."""
        if getattr(self, 'sums', False) and not self.kvstore.type.startswith('dist'):  # that one waits by itself
            mx.nd.waitall()

    def _index(self, place, device):
        """Return the updater's number of a parameter on a device; it keeps states and counts of steps by it."""
        return place * len(self.contexts) + device

    def _updater(self, updates=0):
        """Return SGD without any momentum yet, which has done so many updates."""
        options = dict(self.sgd, lr_scheduler=copy.deepcopy(self.sgd.get('lr_scheduler')))  # it remembers where it was
        return mx.optimizer.get_updater(mx.optimizer.create('sgd', begin_num_update=updates, **options))

    def initialize(self, initializer):
        """Give all parameters their first values, the same on every device, as mx.mod.Module does."""
        attributes = self.symbol.attr_dict()
        for of_kind in (lambda executor: executor.arg_dict, lambda executor: executor.aux_dict):
            for name, like in sorted(of_kind(self.executors[0]).items()):
                if name in ('data', 'softmax_label'):
                    continue
                array = mx.nd.zeros(like.shape, dtype=like.dtype)
                initializer(mx.init.InitDesc(name, attributes.get(name)), array)
                for executor in self.executors:
                    array.copyto(of_kind(executor)[name])

    def step(self, batch):
        """Train on an mx.io.DataBatch; return whether the gradients were applied, which they are unless they overflow.

        MXNet may still compute when this returns.
        """
        self.steps += 1
        first_device = self.kvstore.rank * len(self.contexts)
        shares = [mx.gluon.utils.split_data(arrays[0], len(self.contexts)) for arrays in (batch.data, batch.label)]
        for number, (context, executor, data, label) in enumerate(zip(self.contexts, self.executors, *shares)):
            # Dropout's masks follow from the step, and from the device's number in the whole job. CPU contexts share
            # one generator, which MXNet seeds in turn with what was pushed before and behind.
            random = np.random.RandomState([self.seed, DROPOUT, self.steps, first_device + number])
            mx.random.seed(random.randint(2 ** 31 - 1), context)
            executor.forward(is_train=True, data=data, softmax_label=label)
        for executor in self.executors:
            executor.backward()
        return self._apply_gradients()

    def _apply_gradients(self):
        """Sum the gradients over devices and workers and let the optimiser apply them; return whether it did."""
        gradients = [[executor.grad_dict[name] for executor in self.executors] for name in self.names]
        if self.sums:
            for place, (name, of_devices) in enumerate(zip(self.names, gradients)):
                self.kvstore.push(name, of_devices, priority=-place)
                self.kvstore.pull(name, of_devices, priority=-place)
        if self.may_overflow and not all_finite([of_devices[0] for of_devices in gradients]):
            return False
        for device, executor in enumerate(self.executors):
            self.updater([self._index(place, device) for place in range(len(self.names))],
                         [of_devices[device] for of_devices in gradients], [executor.arg_dict[name] for name in self.names])
        return True

    def probabilities(self):
        """Return the class probabilities of the last step's images, (batch, classes)."""
        return np.concatenate([executor.outputs[1].asnumpy() for executor in self.executors])

    def parameters(self):
        """Return the parameters as they are now on the first device, and the mean of the devices' moving statistics.

        {name: array}: like mx.mod.Module, since each device gathers the statistics of its own images.
        """
        mx.nd.waitall()  # for moving statistics, too: MXNet does not know that reading them has to wait
        values = {name: self.executors[0].arg_dict[name].asnumpy() for name in self.names}
        for name in self.symbol.list_auxiliary_states():
            of_devices = [executor.aux_dict[name].asnumpy() for executor in self.executors]
            values[name] = sum(of_devices[1:], of_devices[0]) / np.float32(len(of_devices))
        return values

    def state(self):
        """Return all that the next step depends on, as {key: array}.

        `arg:NAME`, `aux:DEVICE:NAME`, and of the optimiser `state:NAME:PART`: a momentum, and for float16 weights the
        float32 ones. Parameters and the optimiser's states are the same on every device. `steps` and `updates`: those
        that are done, and those of them whose gradients were applied, which the learning rate goes by.
        """
        mx.nd.waitall()
        arrays = {'arg:' + name: self.executors[0].arg_dict[name] for name in self.names}
        for device, executor in enumerate(self.executors):
            arrays.update((f'aux:{device}:{name}', array) for name, array in executor.aux_dict.items())
        for place, name in enumerate(self.names):
            state = self.updater.states.get(self._index(place, 0))
            for part, array in enumerate(state if isinstance(state, (tuple, list)) else [state]):
                if array is not None:  # there is none before the first step that is applied
                    arrays[f'state:{name}:{part}'] = array
        values = {key: array.asnumpy() for key, array in arrays.items()}
        return dict(values, steps=np.array(self.steps), updates=np.array(self.updater.optimizer.num_update))

    def load_state(self, arrays, path):
        """Go on from what `state` returned; raises UserError, naming `path`, if it is that of another network."""
        places = {'arg:' + name: [executor.arg_dict[name] for executor in self.executors] for name in self.names}
        for device, executor in enumerate(self.executors):
            places.update((f'aux:{device}:{name}', [array]) for name, array in executor.aux_dict.items())
        shapes = {key: targets[0].shape for key, targets in places.items()}
        shapes.update((key, shapes.get('arg:' + key.split(':')[1])) for key in arrays if key.startswith('state:'))
        shapes.update(steps=(), updates=())
        for key in list(shapes) + list(arrays):
            if key not in shapes or key not in arrays or arrays[key].shape != shapes[key]:
                raise UserError(f'{path} does not fit the network: {key} is missing, or has no place, or another shape')
        for key, targets in places.items():
            for target in targets:
                target[:] = arrays[key]
        self.steps, self.updater = int(arrays['steps']), self._updater(int(arrays['updates']))
        for place, name in enumerate(self.names):
            parts = [arrays[key] for key in sorted(arrays) if key.rpartition(':')[0] == 'state:' + name]
            for device, context in enumerate(self.contexts):
                own = [mx.nd.array(part, context, part.dtype) for part in parts]
                if own:
                    self.updater.states[self._index(place, device)] = own[0] if len(own) == 1 else tuple(own)
                    self.updater.states_synced[self._index(place, device)] = True
