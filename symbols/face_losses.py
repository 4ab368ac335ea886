"""The training heads of insightface's trainer, for training outside it: softmax and the margin family.

Not copied into insightface, which has its own; names and arithmetic are the host's.
"""
import mxnet as mx

# arccos has no finite slope at 1, which rounding can reach or pass. Nothing is lost: cos(0.0014) is beyond it.
LARGEST_COSINE = 1 - 1e-6


def margin_logits(embedding, label, num_classes, weight, scale, m1, m2, m3):
    """Return scale * cos(angle to each class), and for the label's class scale * (cos(m1 * angle + m2) - m3).

    `embedding` is (batch, emb_size) of any length, `label` (batch,), the result (batch, num_classes):
    ArcFace, arXiv 1801.07698, equation 4.
    """
    weight = mx.sym.L2Normalization(weight, mode='instance', name='fc7_weight_normed')
    embedding = mx.sym.L2Normalization(embedding, mode='instance', name='fc1n')
    cosine = mx.sym.FullyConnected(data=embedding, weight=weight, no_bias=True, num_hidden=num_classes, name='fc7')
    if (m1, m2, m3) == (1.0, 0.0, 0.0):
        return mx.sym._internal._mul_scalar(cosine, scalar=scale, name='fc7_scaled')
    of_label = mx.sym.pick(cosine, label, axis=1, keepdims=True, name='fc7_label')
    target = of_label
    if (m1, m2) != (1.0, 0.0):
        angle = mx.sym.arccos(mx.sym.clip(of_label, -LARGEST_COSINE, LARGEST_COSINE, name='fc7_label_clip'),
                              name='fc7_angle')
        target = mx.sym.cos(angle * m1 + m2, name='fc7_margin')
    change = mx.sym.one_hot(label, depth=num_classes, name='fc7_one_hot')
    change = mx.sym.broadcast_mul(change, target - m3 - of_label, name='fc7_change')
    return mx.sym._internal._mul_scalar(cosine + change, scalar=scale, name='fc7_scaled')


def classifier(embedding, num_classes, settings, loss_scale=1.0):
    """Return the symbol to train: outputs (embedding, class probabilities), label `softmax_label`.

    `settings` has the host's keys: `emb_size`, `loss_name` ('softmax' or 'margin_softmax') and, for the margin
    family, `loss_s`, `loss_m1`, `loss_m2`, `loss_m3`. Gradients are `loss_scale` times as large, so that those of a
    float16 trunk do not vanish. Raises ValueError for another loss.
    """
    label = mx.sym.Variable('softmax_label')
    weight = mx.sym.Variable('fc7_weight', shape=(num_classes, settings['emb_size']), init=mx.init.Normal(0.01))
    if settings['loss_name'] == 'softmax':
        logits = mx.sym.FullyConnected(data=embedding, weight=weight, num_hidden=num_classes, name='fc7')
    elif settings['loss_name'] == 'margin_softmax':
        logits = margin_logits(embedding, label, num_classes, weight, settings['loss_s'],
                               settings['loss_m1'], settings['loss_m2'], settings['loss_m3'])
    else:
        raise ValueError('loss_name=%r is not known; choose from softmax, margin_softmax' % settings['loss_name'])
    # Normalised over the images of one device; the trainer divides by the number of devices.
    softmax = mx.sym.SoftmaxOutput(data=logits, label=label, normalization='valid', grad_scale=loss_scale,
                                   name='softmax')
    return mx.sym.Group([mx.sym.BlockGrad(embedding, name='embedding'), softmax])
