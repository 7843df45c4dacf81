"""A model carried over to other text tokens: layers and media as they were, words where their
pieces were."""

import torch

from onnuri.codecs.text import TextCodec
from onnuri.model.backbone import BackboneConfig, embedding
from onnuri.model.graft import graft, map_text_codes
from onnuri.model.omni import OmniModel, new_layout


def test_what_was_learned_stays(model):
    text = TextCodec.learn(["빨간 공 a red ball zyzzyva"] * 3 + ["a small red sphere"] * 3, 600)
    layout = new_layout({**model.codecs, "text": text}, True)
    config = model.network.config
    network = BackboneConfig(
        vocabulary=layout.size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        hidden=config.intermediate_size,
    ).build()
    graft(model, network, layout, text)
    old, new = embedding(model.network).detach(), embedding(network).detach()
    for codebook in ("visual", "audio", "shape"):
        assert torch.equal(
            new[slice(*layout.span(codebook))], old[slice(*model.layout.span(codebook))].float()
        )
    assert torch.equal(
        new[layout.special("<|text|>")], old[model.layout.special("<|text|>")].float()
    )
    names, rows = model.codecs["text"].tokenizer, map_text_codes(model.codecs["text"], text)
    for code in range(text.num_codes):
        name = str(text.tokenizer.id_to_token(code))
        if name in names.get_vocab():
            assert rows[code].tolist() == [names.token_to_id(name)]
            assert torch.equal(new[code], old[names.token_to_id(name)].float())
    layer = "model.layers.2.mlp.up_proj.weight"
    assert torch.equal(network.state_dict()[layer], model.network.state_dict()[layer].float())
    # a picture opens with the same guess, for nothing of it has changed
    picture = [layout.special("<bos>"), layout.special("<|image|>")]
    before = [model.layout.special("<bos>"), model.layout.special("<|image|>")]
    with torch.no_grad():
        a = network(input_ids=torch.tensor([picture])).logits[0, -1, slice(*layout.span("visual"))]
        b = model.network(input_ids=torch.tensor([before])).logits[
            0, -1, slice(*model.layout.span("visual"))
        ]
    assert torch.allclose(a, b.float(), atol=1e-3)


def test_new_special_tokens_begin_where_text_does_and_codes_of_no_old_codec_stay_random(model):
    """A model without tokens that say what is asked is carried into one that has them."""
    torch.manual_seed(1)
    layout = new_layout(model.codecs)
    small = {"width": 16, "layers": 1, "heads": 1, "hidden": 16}
    old = OmniModel(BackboneConfig(vocabulary=layout.size, **small).build(), model.codecs, layout)
    wider = new_layout(model.codecs, True)
    network = BackboneConfig(vocabulary=wider.size, **small).build()
    graft(old, network, wider, model.codecs["text"], seed=5)
    source, rows = embedding(old.network).detach(), embedding(network).detach()
    random = (
        torch.randn(rows.shape, generator=torch.Generator().manual_seed(5))
        * float(source.std())
        * 0.5
    )
    for token, id in wider.special_ids.items():
        known = (
            source[layout.special(token)]
            if token in layout.special_ids
            else random[id] + source[layout.special("<|text|>")]
        )
        torch.testing.assert_close(rows[id], known, msg=token)
