"""A network in training: its weights, its steps, its state.

All that this project knows about how MXNet trains is here, in terms of executors, a kvstore and an updater.
`mx.mod.Module` is not used: it keeps a second copy of the weights, saves that one, and lets it go stale silently
when anything but Module changes the first. Here the devices' arrays are the only copies.
"""

import copy

import numpy as np

from netkit._mxnet import mx
from netkit.errors import UserError

# The MXNet with which the order of random numbers, the updater's states and the moving statistics were checked.
WRITTEN_FOR = '1.9.1'
DROPOUT = 3  # purpose of random numbers, next to the seed: 0 to 2 are the data set's


def all_finite(arrays):
    """Return whether no element is infinite or NaN."""
    # MXNet's operator crashes with more than 200 arrays.
    return all(
        mx.nd.multi_all_finite(*arrays[start : start + 200], num_arrays=len(arrays[start : start + 200])).asscalar()
        for start in range(0, len(arrays), 200)
    )


class Trainer:
    """A symbol with its loss, bound for training on `contexts`, and the SGD that updates its weights.

    The symbol has inputs `data` (n, 3, height, width) and `softmax_label` (n,), and outputs (embedding, class
    probabilities). The images of a step on this worker, one of those of `kvstore`, are split, in order, among the
    devices. `steps` is the number of steps done.
    """

    def __init__(self, symbol, contexts, data_shape, kvstore, seed=0, loss_scale=1.0, **sgd):
        """Bind the symbol; its weights have to be set by `initialize` or `load_state`.

        `data_shape` is that of this worker's images of a step, (n, 3, height, width). `sgd` are options of
        mx.optimizer.SGD. `loss_scale` is the factor of the symbol's loss on the gradients; if it is
        not 1, a step whose gradients are not finite is skipped. Raises UserError with another version of MXNet.
        """
        if mx.__version__ != WRITTEN_FOR:
            raise UserError(
                f'training here is written for MXNet {WRITTEN_FOR}, this is {mx.__version__}; install the extra mxnet'
            )
        self.symbol, self.contexts, self.kvstore, self.seed = symbol, contexts, kvstore, seed
        self.steps, self.may_overflow = 0, loss_scale != 1
        images = data_shape[0] // len(contexts)
        inputs = {'data': (images, *data_shape[1:]), 'softmax_label': (images,)}
        self.names = [name for name in symbol.list_arguments() if name not in inputs]
        self.executors = [
            symbol.simple_bind(
                context,
                {name: 'write' if name in self.names else 'null' for name in symbol.list_arguments()},
                dict.fromkeys(inputs, np.float32),
                **inputs,
            )
            for context in contexts
        ]
        # SoftmaxOutput averages over the images of a device; the gradients of devices and workers are summed.
        summed = len(contexts) * kvstore.num_workers * loss_scale
        names = {
            self._index(place, device): name for place, name in enumerate(self.names) for device in range(len(contexts))
        }
        self.sgd = dict(sgd, sym=symbol, rescale_grad=1.0 / summed, param_idx2name=names)
        self.updater = self._updater()
        # The kvstore only sums: with the optimiser in it, or on its servers, the momentum could not be saved.
        self.sums = len(contexts) > 1 or kvstore.type.startswith('dist')
        if self.sums:
            for name in self.names:
                kvstore.init(name, self.executors[0].arg_dict[name])

    def __del__(self):
        """Wait for the kvstore's pending sums: MXNet frees it while its threads still use it (SIGFPE)."""
        if getattr(self, 'sums', False) and not self.kvstore.type.startswith('dist'):  # that one waits by itself
            mx.nd.waitall()

    def _index(self, place, device):
        """Return the updater's index of a parameter on a device, the key of its states and counts of updates."""
        return place * len(self.contexts) + device

    def _updater(self, updates=0):
        """Return SGD after `updates` updates, without momentum."""
        options = dict(self.sgd, lr_scheduler=copy.deepcopy(self.sgd.get('lr_scheduler')))  # it has a state
        return mx.optimizer.get_updater(mx.optimizer.create('sgd', begin_num_update=updates, **options))

    def initialize(self, initializer):
        """Set all parameters to their initial values, the same on every device, in the order of mx.mod.Module."""
        attributes = self.symbol.attr_dict()
        for of_kind in (lambda executor: executor.arg_dict, lambda executor: executor.aux_dict):
            for name, like in sorted(of_kind(self.executors[0]).items()):
                if name in ('data', 'softmax_label'):
                    continue
                array = mx.nd.zeros(like.shape, dtype=like.dtype)
                initializer(mx.init.InitDesc(name, attributes.get(name)), array)
                for executor in self.executors:
                    array.copyto(of_kind(executor)[name])

    def shapes(self):
        """Return {name: shape} of the parameters and moving statistics."""
        first = self.executors[0]
        return {
            **{name: first.arg_dict[name].shape for name in self.names},
            **{name: array.shape for name, array in first.aux_dict.items()},
        }

    def set_parameters(self, values):
        """Set parameters and moving statistics, {name: array}, on every device."""
        for executor in self.executors:
            for name, array in values.items():
                (executor.arg_dict if name in self.names else executor.aux_dict)[name][:] = array

    def step(self, batch):
        """Train on an mx.io.DataBatch; return whether the gradients were applied: not if they overflowed.

        Asynchronous: MXNet may still be computing when this returns.
        """
        self.steps += 1
        first_device = self.kvstore.rank * len(self.contexts)
        shares = [mx.gluon.utils.split_data(arrays[0], len(self.contexts)) for arrays in (batch.data, batch.label)]
        for number, (context, executor, data, label) in enumerate(zip(self.contexts, self.executors, *shares)):
            # Dropout's masks depend on the step and on the device's number in the whole job. CPU contexts share one
            # generator, whose seeding MXNet orders among the operations pushed before and after.
            random = np.random.RandomState([self.seed, DROPOUT, self.steps, first_device + number])
            mx.random.seed(random.randint(2**31 - 1), context)
            executor.forward(is_train=True, data=data, softmax_label=label)
        for executor in self.executors:
            executor.backward()
        return self._apply_gradients()

    def _apply_gradients(self):
        """Sum the gradients over devices and workers and apply them; return False if they overflowed."""
        gradients = [[executor.grad_dict[name] for executor in self.executors] for name in self.names]
        if self.sums:
            for place, (name, of_devices) in enumerate(zip(self.names, gradients)):
                self.kvstore.push(name, of_devices, priority=-place)
                self.kvstore.pull(name, of_devices, priority=-place)
        if self.may_overflow and not all_finite([of_devices[0] for of_devices in gradients]):
            return False
        for device, executor in enumerate(self.executors):
            self.updater(
                [self._index(place, device) for place in range(len(self.names))],
                [of_devices[device] for of_devices in gradients],
                [executor.arg_dict[name] for name in self.names],
            )
        return True

    def probabilities(self):
        """Return the class probabilities of the last step, (batch, classes)."""
        return np.concatenate([executor.outputs[1].asnumpy() for executor in self.executors])

    def parameters(self):
        """Return {name: array} of the parameters, and of the moving statistics averaged over the devices.

        Averaged as by mx.mod.Module, since each device gathers the statistics of its own images.
        """
        mx.nd.waitall()  # MXNet does not know that reading moving statistics has to wait
        values = {name: self.executors[0].arg_dict[name].asnumpy() for name in self.names}
        for name in self.symbol.list_auxiliary_states():
            of_devices = [executor.aux_dict[name].asnumpy() for executor in self.executors]
            values[name] = sum(of_devices[1:], of_devices[0]) / np.float32(len(of_devices))
        return values

    def state(self):
        """Return everything that the next step depends on, as {key: array}.

        `arg:NAME`, `aux:DEVICE:NAME`, and of the optimiser `state:NAME:PART`: the momentum, and for float16 weights the
        float32 ones. Parameters and the optimiser's states are the same on every device. `steps` are the steps done,
        `updates` those whose gradients were applied, by which the learning rate is scheduled.
        """
        mx.nd.waitall()
        arrays = {'arg:' + name: self.executors[0].arg_dict[name] for name in self.names}
        for device, executor in enumerate(self.executors):
            arrays.update((f'aux:{device}:{name}', array) for name, array in executor.aux_dict.items())
        for place, name in enumerate(self.names):
            state = self.updater.states.get(self._index(place, 0))
            for part, array in enumerate(state if isinstance(state, (tuple, list)) else [state]):
                if array is not None:  # there is none before the first update
                    arrays[f'state:{name}:{part}'] = array
        values = {key: array.asnumpy() for key, array in arrays.items()}
        return dict(values, steps=np.array(self.steps), updates=np.array(self.updater.optimizer.num_update))

    def load_state(self, arrays, path):
        """Continue from what `state` returned; raises UserError, naming `path`, for the state of another network."""
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
