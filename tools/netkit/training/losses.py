"""The training heads of insightface's trainer, for training outside it: softmax and the margin family.

Not copied into insightface, which has its own; names and arithmetic are insightface's.
"""

from netkit._mxnet import mx

# arccos has an infinite slope at 1, which rounding can reach or exceed. Nothing is lost: this is cos(0.0014).
LARGEST_COSINE = 1 - 1e-6


def margin_logits(embedding, label, weight, num_classes, loss):
    """Return s·cos(angle to each class), and for the label's class s·(cos(m1·angle + m2) - m3).

    `embedding` is (batch, emb_size), not normalised; `label` (batch,); `weight` (num_classes, emb_size); the result
    (batch, num_classes). s, m1, m2, m3 are `loss_s`, … of `loss`. ArcFace, arXiv 1801.07698, equation 4.
    """
    m1, m2, m3 = loss['loss_m1'], loss['loss_m2'], loss['loss_m3']
    weight = mx.sym.L2Normalization(weight, mode='instance', name='fc7_weight_normed')
    embedding = mx.sym.L2Normalization(embedding, mode='instance', name='fc1n')
    cosine = mx.sym.FullyConnected(data=embedding, weight=weight, no_bias=True, num_hidden=num_classes, name='fc7')
    if (m1, m2, m3) == (1.0, 0.0, 0.0):
        return mx.sym._internal._mul_scalar(cosine, scalar=loss['loss_s'], name='fc7_scaled')
    of_label = mx.sym.pick(cosine, label, axis=1, keepdims=True, name='fc7_label')
    target = of_label
    if (m1, m2) != (1.0, 0.0):
        angle = mx.sym.arccos(
            mx.sym.clip(of_label, -LARGEST_COSINE, LARGEST_COSINE, name='fc7_label_clip'), name='fc7_angle'
        )
        target = mx.sym.cos(angle * m1 + m2, name='fc7_margin')
    change = mx.sym.one_hot(label, depth=num_classes, name='fc7_one_hot')
    change = mx.sym.broadcast_mul(change, target - m3 - of_label, name='fc7_change')
    return mx.sym._internal._mul_scalar(cosine + change, scalar=loss['loss_s'], name='fc7_scaled')


def classifier(embedding, emb_size, num_classes, loss, loss_scale=1.0):
    """Return the symbol to train: outputs (embedding, class probabilities), label `softmax_label`.

    `loss` is an entry of the config's table of losses: `loss_name` ('softmax' or 'margin_softmax') and, for the margin
    family, `loss_s`, `loss_m1`, `loss_m2`, `loss_m3`. Gradients are multiplied by `loss_scale`, so that those of a
    float16 trunk do not vanish. Raises ValueError for another loss.
    """
    label = mx.sym.Variable('softmax_label')
    weight = mx.sym.Variable('fc7_weight', shape=(num_classes, emb_size), init=mx.init.Normal(0.01))
    if loss['loss_name'] == 'softmax':
        logits = mx.sym.FullyConnected(data=embedding, weight=weight, num_hidden=num_classes, name='fc7')
    elif loss['loss_name'] == 'margin_softmax':
        logits = margin_logits(embedding, label, weight, num_classes, loss)
    else:
        raise ValueError('loss_name={!r} is not known; choose from softmax, margin_softmax'.format(loss['loss_name']))
    return _with_softmax(embedding, logits, label, loss_scale)


def classification(logits, loss_scale=1.0):
    """Return the symbol to train a classifier, (batch, classes): outputs (logits, probabilities).

    The loss is the cross-entropy; `loss_scale` as in `classifier`.
    """
    return _with_softmax(logits, logits, mx.sym.Variable('softmax_label'), loss_scale)


def _with_softmax(embedding, logits, label, loss_scale):
    # The mean over the images of one device; the trainer divides by the number of devices.
    softmax = mx.sym.SoftmaxOutput(
        data=logits, label=label, normalization='valid', grad_scale=loss_scale, name='softmax'
    )
    return mx.sym.Group([mx.sym.BlockGrad(embedding, name='embedding'), softmax])
