"""The losses of torch, by name."""

import torch.nn.functional as F

from clarion.metrics.registry import do_register_metric_func

__all__: list[str] = []

do_register_metric_func(F.cross_entropy)
do_register_metric_func(F.kl_div)
do_register_metric_func(F.binary_cross_entropy, ["binary_cross_entropy", "bce"], "bce")
do_register_metric_func(
    F.binary_cross_entropy_with_logits,
    ["binary_cross_entropy_with_logits", "bce_with_logits"],
    "bce_with_logits",
)
do_register_metric_func(F.l1_loss, "mae", "mae")
for _loss in (
    F.hinge_embedding_loss,
    F.huber_loss,
    F.l1_loss,
    F.mse_loss,
    F.multi_margin_loss,
    F.multilabel_margin_loss,
    F.multilabel_soft_margin_loss,
    F.nll_loss,
    F.poisson_nll_loss,
    F.smooth_l1_loss,
    F.soft_margin_loss,
):
    do_register_metric_func(_loss, unique_name=_loss.__name__.removesuffix("_loss"))
