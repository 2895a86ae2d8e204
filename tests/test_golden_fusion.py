"""Compare BLIP, ALBEF and BEiT-3 with tensors computed by their official code; see ``test_golden``.

A kind of case tells the backbone; a case of a tuner on it is the same case with adapters, for which ``TUNERS`` of
``golden_fusion_tuners`` makes the tuner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from petl_zoo.backbones import ALBEF, BLIP, Backbone, BEiT3, Plan, States, TextBatch
from petl_zoo.backbones.bert import BertFusion
from petl_zoo.backbones.formats import FAMILIES, Family
from petl_zoo.heads import Head, RetrievalHead
from petl_zoo.heads.language import rank_answers, text_losses
from petl_zoo.model import VLModel
from petl_zoo.tuners import FullFineTuning
from tests.golden_fusion_tuners import TUNERS, average, official
from tests.test_golden import TOLERANCE, cases
from tests.test_golden import Case as GoldenCase

# A kind of case -> the backbone, and the official parameters that are no backbone's but a tuner's.
BACKBONES: dict[str, tuple[type[Backbone], tuple[str, ...]]] = {
    "blip_itc_itm": (BLIP, ()),
    "blip_vqa": (BLIP, ()),
    "albef_itc_itm": (ALBEF, ()),
    "albef_vqa": (ALBEF, ()),
    "beit3": (BEiT3, ()),
    "uniadapter_blip_vqa": (BLIP, ("adapter",)),
    "uniadapter_blip": (BLIP, ("adapter",)),
    "aurora_blip_vqa": (BLIP, ("CP",)),
    "aurora_blip": (BLIP, ("CP",)),
}
# Tensors are stored in float32, so that a large one is known to seven digits only.
GRAD = {torch.float64: (1e-6, 1e-6), torch.float32: TOLERANCE[torch.float32]["grad"]}
MOMENTUM = ("visual_encoder_m.", "text_encoder_m.", "text_decoder_m.", "vision_proj_m.", "text_proj_m.")


@dataclass
class StubTokenizer:
    """The special tokens of a case; texts come as ids."""

    start: int
    end: int | None
    pad: int
    enc: int = -1
    dec: int = -1
    context_length: int = 1000

    def encode(self, text: str) -> list[int]:
        raise AssertionError(f"the cases hold ids, so nothing should tokenise {text!r}")


class Case(GoldenCase):
    """A case in one precision; its texts come as ids, and not every kind has every output."""

    def close(self, actual: Tensor, name: str, kind: str = "value") -> None:
        if name in self.io:
            super().close(actual.to(self.io[name].dtype), name, kind)

    def text(self, name: str, mask: str, rows: slice = slice(None)) -> TextBatch:
        """Texts from ids and a mask that is 1 at real tokens."""
        ids, real = self.io[name][rows], self.io[mask][rows].bool()
        end = real.sum(1) - 1
        return TextBatch(ids, torch.empty(len(ids), 0, dtype=torch.long), end, 0, 0, int(real.sum()))


def kind_of(folder: Path) -> str | None:
    """The kind of a case: its folder's name, or the longest beginning of it that is one."""
    fits = [kind for kind in BACKBONES if folder.name == kind or folder.name.startswith(kind + "_")]
    return max(fits, key=len, default=None)


def family_of(kind: str) -> Family:
    return FAMILIES[BACKBONES[kind][0].__name__]


def convert(case: Case, kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give official tensors of the backbone our names; the tuner's are left out."""
    skipped = BACKBONES[kind][1]
    backbone = {name: t for name, t in tensors.items() if not any(part in name for part in skipped)}
    fmt = family_of(kind).detect(case.weights)
    assert fmt is not None, "the case is in a known official format"
    converted, unknown = fmt.convert(backbone)
    assert not unknown
    return converted


def build(case: Case, kind: str) -> Backbone:
    cls, c, tokens = BACKBONES[kind][0], case.meta["config"], case.meta["tokens"]
    state = convert(case, kind, case.weights)
    options: dict[str, Any] = {"image_size": c["image_size"], "patch_size": c["patch"], "dropout": 0.0}
    options["context_length"] = len(state["text_embed.position"])
    options["vocabulary"] = len(state["text_embed.token.weight"])
    options["caption_length"] = 1  # Texts come at their own length.
    if cls is BEiT3:
        tokenizer = StubTokenizer(tokens["bos"], tokens["eos"], tokens["pad"])
        sizes = {key: c[key] for key in ("width", "layers", "heads")}
        backbone: Backbone = BEiT3(**options, **sizes, tokenizer=tokenizer)
    else:
        tokenizer = StubTokenizer(tokens["CLS"], tokens["SEP"], tokens["PAD"])
        tokenizer.enc, tokenizer.dec = tokens.get("ENC", -1), tokens.get("DEC_bos", -1)
        v, t = c["vision"], c["text"]
        options |= {"vision_width": v["width"], "vision_layers": v["layers"], "vision_heads": v["heads"]}
        options |= {"text_width": t["hidden_size"], "text_layers": t["num_hidden_layers"]}
        options |= {"text_heads": t["num_attention_heads"], "embed_dim": c.get("embed_dim") or 16}
        options["tokenizer"] = tokenizer
        if any(name.startswith("decoder") for name in state):
            options["decoder"] = "text"
        if cls is ALBEF:
            options["fusion_layer"] = t["fusion_layer"]
            options["mlm"] = any(name.startswith("lm_head") for name in state)
        backbone = cls(**options)
    backbone = backbone.to(case.dtype)
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    assert not unexpected
    heads = ("vision_proj", "text_proj", "itm_head", "temp", "logit_scale")
    assert all(name.startswith(heads) for name in missing), f"only heads of other tasks may be missing: {missing}"
    return backbone


@dataclass
class Adapted:
    """A case's model, in which everything is trained.

    Attributes:
        names: official name of each of the tuner's parameters, by our name; empty where there is no tuner.
    """

    model: VLModel
    names: dict[str, str]

    @classmethod
    def make(cls, case: Case, kind: str, backbone: Backbone, head: Head) -> Adapted:
        if kind not in TUNERS:
            return cls(VLModel(backbone, FullFineTuning(), head).eval().requires_grad_(True), {})
        tuner, names = TUNERS[kind](case)
        declared: dict[str, str] = {}

        def everything(backbone: Backbone) -> dict[str, str]:
            # The official copies of frozen parameters differ from them, so that these need an average too.
            declared.update(type(tuner).trained(tuner, backbone))
            return {f"backbone.{name}": "backbone" for name, _ in backbone.named_parameters()} | declared

        tuner.trained = everything  # type: ignore[method-assign]
        model = VLModel(backbone, tuner, head).eval()
        assert set(names) == {name for name, role in declared.items() if role != "head"}
        with torch.no_grad():
            for ours, theirs in names.items():
                model.get_parameter(ours).copy_(official(case.weights, theirs))
        return cls(model, names)

    def set_averages(self, case: Case, kind: str, head: RetrievalHead) -> None:
        """Put the official momentum copies into the head; what has none is its own average."""
        copies = {name.replace("_m.", "."): t for name, t in case.weights.items() if name.startswith(MOMENTUM)}
        found: dict[str, Tensor | None] = {f"backbone.{n}": t for n, t in convert(case, kind, copies).items()}
        found |= {ours: average(case, theirs) for ours, theirs in self.names.items()}
        for name, parameter in self.model.trained_parameters().items():
            known = found.get(name)
            value = parameter.detach() if known is None else known.reshape(parameter.shape)
            head.get_buffer("average_of_" + name.replace(".", "/")).copy_(value)

    def grads_close(self, case: Case, kind: str) -> None:
        golden = {n.removeprefix("grad."): g for n, g in case.io.items() if n.startswith("grad.")}
        expected = {f"backbone.{name}": g for name, g in convert(case, kind, golden).items()}
        known = {theirs.partition("[")[0] for theirs in self.names.values()}
        expected |= {o: official(golden, t) for o, t in self.names.items() if t.partition("[")[0] in golden}
        assert expected, "the case has gradients"
        assert bool(self.names) == any(name in self.names for name in expected)
        dead = {n for n in golden if any(part in n for part in BACKBONES[kind][1]) and n not in known}
        assert not any(golden[name].any() for name in dead), f"no parameter of ours is {dead}"
        rtol, atol = GRAD[case.dtype]
        for name, gradient in expected.items():
            grad = self.model.get_parameter(name).grad
            assert grad is not None, f"no gradient reaches {name}"
            torch.testing.assert_close(
                grad, gradient.reshape(grad.shape), rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )


class AnsweringHead(RetrievalHead):
    """Runs the streams of questions and answers, for the tuner to adapt."""

    streams = frozenset({"vision", "fusion", "decoder"})


every_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
every_case = pytest.mark.parametrize(
    "folder", [folder for folder in cases() if kind_of(folder)], ids=lambda folder: folder.name
)


@every_precision
@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@every_case
def test_golden(folder: Path, plain: bool, dtype: torch.dtype) -> None:
    kind, case = kind_of(folder), Case.read(folder, dtype)
    assert kind is not None
    backbone = build(case, kind)
    backbone.plain = plain
    if kind == "beit3":
        check_beit3(case, backbone)
    elif kind.endswith("vqa"):
        check_vqa(case, kind, backbone)
    else:
        check_retrieval(case, kind, backbone)


def check_retrieval(case: Case, kind: str, backbone: Backbone) -> None:
    assert isinstance(backbone, BertFusion)
    head = RetrievalHead(
        momentum=case.meta["config"]["momentum"],
        queue=case.meta["config"]["queue_size"],
        alpha=case.meta["training_forward"]["alpha"],
        ramp=0,
    )
    adapted = Adapted.make(case, kind, backbone, head)
    with torch.no_grad():
        check_features(case, backbone, case.text("input_ids", "attention_mask"))
    check_training(case, kind, adapted, head)


def check_features(case: Case, backbone: BertFusion, text: TextBatch) -> None:
    images = backbone.image_states(case.io["image"])
    states = backbone.text_states(text)
    case.close(images, "image_embeds")
    hidden = states.tokens if states.padding is None else states.tokens * states.padding[..., None]
    length = case.io["text_hidden"].shape[1]
    case.close(F.pad(hidden, (0, 0, 0, length - hidden.shape[1])), "text_hidden")
    image, words = (F.normalize(x, dim=-1) for x in (backbone.pool_image(images), backbone.pool_text(states)))
    case.close(image, "image_feat")
    case.close(words, "text_feat")
    case.close(F.normalize(backbone.encode_image(case.io["image"]), dim=-1), "image_feat")
    case.close(F.normalize(backbone.encode_text(text), dim=-1), "text_feat")
    case.close(image @ words.t(), "sim")
    case.close(image @ words[: len(image)].t(), "itc_sim_blip_itm")
    count, pairs = len(text), torch.arange(len(text)).repeat(len(images))
    fused = backbone.fuse(text.take(pairs), states.take(pairs), backbone.context(images), Plan())
    case.close(fused.unflatten(0, (-1, count)), "fused_cls")
    case.close(backbone.match(fused).unflatten(0, (-1, count)), "itm_logits", "logits")
    one = backbone.context(images[:1])
    case.close(backbone.fuse(text, None, one, Plan()), "multi_modal_cls_image0")
    if "itm_logits_cls_first" in case.io:
        tokenizer, first = backbone.tokenizer, torch.arange(len(images))
        tokenizer.enc, enc = tokenizer.start, tokenizer.enc
        fused = backbone.fuse(text.take(first), None, backbone.context(images), Plan())
        tokenizer.enc = enc
        case.close(backbone.match(fused), "itm_logits_cls_first", "logits")


def check_training(case: Case, kind: str, adapted: Adapted, head: RetrievalHead) -> None:
    """The official training forward: momentum update, ITC with a queue, ITM, and the queue after it."""
    model = adapted.model
    rows = slice(len(case.io["train_idx"]))
    text = case.text("input_ids", "attention_mask", rows).trimmed()
    model.caption_text = lambda captions: text  # type: ignore[method-assign]
    adapted.set_averages(case, kind, head)
    head.image_queue.copy_(case.weights["image_queue"].t())
    head.text_queue.copy_(case.weights["text_queue"].t())
    head.id_queue.copy_(case.weights["idx_queue"][0])
    head.place.copy_(case.weights["ptr_queue" if "ptr_queue" in case.weights else "queue_ptr"][0])

    batch = {"images": case.io["image"][rows], "captions": [""] * len(text), "ids": case.io["train_idx"]}
    losses = head.loss(model, **batch)
    case.close(losses["loss_itc"], "loss_ita")
    case.close(losses["loss_itm"], "loss_itm")
    sum(losses.values()).backward()
    adapted.grads_close(case, kind)
    case.close(head.image_queue.t(), "after.image_queue")
    case.close(head.text_queue.t(), "after.text_queue")
    case.close(head.id_queue, "after.idx_queue")
    case.close(head.place, "after.ptr_queue")
    case.close(head.place, "after.queue_ptr")
    moved = head.get_buffer("average_of_backbone/vision_proj/weight")
    case.close(moved, "after.vision_proj_m.weight")


def check_vqa(case: Case, kind: str, backbone: Backbone) -> None:
    assert isinstance(backbone, BertFusion)
    albef = isinstance(backbone, ALBEF)
    smoothing = 0.0 if albef or kind.startswith("aurora") else 0.1
    adapted = Adapted.make(case, kind, backbone, AnsweringHead())
    question = case.text("question_ids", "question_mask").trimmed()
    context = backbone.context(backbone.image_states(case.io["image"]))
    states = backbone.fused_states(question, None, context, Plan())
    each = torch.repeat_interleave(torch.arange(len(question)), case.io["answers_per_question"])
    ids, mask = case.io["answer_ids"], case.io["answer_mask"].bool()
    logits = backbone.decode(ids, mask, states.take(each), Plan())
    case.close(logits * mask[..., None], "answer_logits", "logits")
    losses = text_losses(logits, ids, mask, smoothing=smoothing)
    case.close(losses, "answer_losses")
    loss = (case.io["answer_weights"].to(losses.dtype) * losses).sum() / len(case.io["image"])
    case.close(loss, "loss")
    loss.backward()
    adapted.grads_close(case, kind)
    with torch.no_grad():
        check_ranking(case, backbone, states, smoothing=smoothing, twice=albef)


def check_ranking(case: Case, backbone: BertFusion, states: States, *, smoothing: float, twice: bool) -> None:
    ids, mask = case.io["candidate_ids"], case.io["candidate_mask"].bool()
    start = ids[:1, :1].expand(len(states.tokens), 1)
    first = backbone.decode(start, None, states, Plan())[:, 0].softmax(-1)
    case.close(first[:, ids[:, 1]], "first_token_prob")

    def ranked(k: int) -> tuple[Tensor, Tensor]:
        return rank_answers(backbone, states, ids, mask, k, Plan(), smoothing=smoothing, first_word_twice=twice)

    best, scores = ranked(case.io["topk_ids"].shape[1])
    case.close(best, "topk_ids")
    case.close(scores, "topk_log_prob")
    if "best" in case.io:
        case.close(best.gather(1, scores.argmax(1, keepdim=True))[:, 0], "best")
    best, scores = ranked(len(ids))
    case.close(torch.zeros_like(scores).scatter(1, best, scores), "all_candidate_log_prob")


def check_beit3(case: Case, backbone: Backbone) -> None:
    assert isinstance(backbone, BEiT3)
    model = VLModel(backbone, FullFineTuning(), RetrievalHead())
    real = case.io["text_padding_mask"] == 0
    case.io["mask"] = real.long()
    text = case.text("text_ids", "mask")
    image, words = model.backbone.encode_image(case.io["image"]), model.backbone.encode_text(text)
    image, words = F.normalize(image, dim=-1), F.normalize(words, dim=-1)
    case.close(image, "vision_feat")
    case.close(words, "text_feat")
    model.caption_text = lambda captions: text  # type: ignore[method-assign]
    batch = {"images": case.io["image"], "captions": [""] * len(text), "ids": torch.arange(len(text))}
    loss = model(**batch, mode="loss")["loss_itc"]
    case.close(loss, "retrieval_loss")
    loss.backward()
    check_beit3_grads(case, model)
    check_fused(case, backbone, text)


def check_beit3_grads(case: Case, model: VLModel) -> None:
    """Position tables have two rows more in the official files, whose gradients are zero."""
    for name in ("A", "B"):
        rows = case.io[f"grad.beit3.encoder.embed_positions.{name}.weight"][:2]
        assert not rows.any()
    Adapted(model, {}).grads_close(case, "beit3")


def check_fused(case: Case, backbone: BEiT3, text: TextBatch) -> None:
    """The pass over both modalities, layer by layer, and the authors' answer classifier on top of it."""
    hidden: dict[str, Tensor] = {}
    handles = [
        backbone.encoder.layer(i).register_forward_hook(
            lambda _module, _args, output, name=f"fused_hidden.{i}": hidden.__setitem__(name, output)
        )
        for i in range(len(backbone.encoder))
    ]
    states = backbone.fused_states(case.io["image"], text)
    for handle in handles:
        handle.remove()
    real = torch.ones(states.tokens.shape[:2], dtype=torch.bool) if states.padding is None else states.padding
    case.close(states.tokens * real[..., None], "fused")
    assert len(hidden) == len(backbone.encoder)
    for name, output in hidden.items():
        expected = case.io[name] * real[..., None]
        rtol, atol = TOLERANCE[case.dtype]["value"]
        torch.testing.assert_close(output.detach() * real[..., None], expected, rtol=rtol, atol=atol)

    backbone.zero_grad()
    w = {name: t.clone().requires_grad_() for name, t in case.weights.items() if name.startswith(("pooler", "head"))}
    first = backbone.fused_states(case.io["image"], text, norm=False).tokens[:, 0]
    width = first.shape[1]
    pooled = F.layer_norm(first, (width,), w["pooler.norm.weight"], w["pooler.norm.bias"])
    pooled = torch.tanh(F.linear(pooled, w["pooler.dense.weight"], w["pooler.dense.bias"]))
    x = F.linear(pooled, w["head.0.weight"], w["head.0.bias"])
    x = F.gelu(F.layer_norm(x, x.shape[1:], w["head.1.weight"], w["head.1.bias"]))
    logits = F.linear(x, w["head.3.weight"], w["head.3.bias"])
    case.close(logits, "vqa_logits", "logits")
    targets = case.io["vqa_targets"].to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]
    case.close(loss, "vqa_loss")
    loss.backward()
    golden = {n.removeprefix("vqa_grad."): g for n, g in case.io.items() if n.startswith("vqa_grad.")}
    own = {name: g for name, g in golden.items() if name in w}
    rtol, atol = GRAD[case.dtype]
    for name, expected in own.items():
        torch.testing.assert_close(w[name].grad, expected, rtol=rtol, atol=atol)
    parameters = dict(backbone.named_parameters())
    for name, expected in convert(case, "beit3", {n: g for n, g in golden.items() if n not in w}).items():
        torch.testing.assert_close(parameters[name].grad, expected, rtol=rtol, atol=atol)
