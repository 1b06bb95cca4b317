"""Weight files of PyTorch and Hugging Face in fnet's models: random weights, equal logits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fnet
from fnet import io, models, nn

ORACLE = "comparisons with PyTorch and transformers need the oracle extra: pip install fnet[oracle]"
IDS = np.random.default_rng(0).integers(0, 50, (2, 9))
IMAGES = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason=ORACLE)


@pytest.fixture(scope="module")
def hf(torch):
    return pytest.importorskip("transformers", reason=ORACLE)


def randomised(torch: Any, module: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.dtype.is_floating_point and "inv_freq" not in name:
                value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.2)
    return module.eval()


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_gpt2(torch, hf, tmp_path):
    config = hf.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=3, n_head=4)
    module = randomised(torch, hf.GPT2LMHeadModel(config))
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    model = models.gpt(50, 16, num_layers=3, num_heads=4, width=32)
    arrays = models.gpt2_arrays(io.read_torch(tmp_path / "pytorch_model.bin"))
    params, _ = io.from_torch(model, arrays, IDS)
    close(model(params, IDS), module(torch.tensor(IDS)).logits)
    low = models.gpt2_arrays(module.bfloat16().state_dict())  # numpy has no bfloat16, and torch gives it none
    assert {array.dtype.name for array in low.values()} == {"bfloat16"}
    np.testing.assert_array_equal(low["h.1.c_fc.weight"], arrays["h.1.c_fc.weight"].astype("bfloat16"))


def test_a_head_that_is_not_the_embedding_is_an_error(torch, hf):
    sizes = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}
    gpt2 = hf.GPT2LMHeadModel(hf.GPT2Config(n_positions=16, **sizes, tie_word_embeddings=False))
    with pytest.raises(ValueError, match="lm_head.weight differs from wte.weight.*tie_word_embeddings"):
        models.gpt2_arrays(gpt2.state_dict())
    bert = hf.BertForMaskedLM(hf.BertConfig(intermediate_size=8, **sizes, tie_word_embeddings=False))
    with pytest.raises(ValueError, match="'words.weight'.*decoder.weight.*they differ.*untied"):
        io.from_torch(models.bert(50, 512, 1, 2, 8, 8), bert, IDS, rename=models.BERT_NAMES)


@pytest.mark.parametrize("tied", [False, True])
def test_llama(torch, hf, tmp_path, tied):
    config = hf.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=500.0, tie_word_embeddings=tied,
    )  # fmt: skip
    module = randomised(torch, hf.LlamaForCausalLM(config))
    module.save_pretrained(tmp_path, safe_serialization=True)
    model = models.llama(50, 2, 4, 32, 48, num_kv_heads=2, rope_base=500.0, tied=tied)
    rename = models.LLAMA_NAMES | ({"lm_head": "embed_tokens"} if tied else {})
    params, _ = io.from_torch(model, tmp_path / "model.safetensors", IDS, rename=rename)
    close(model(params, IDS), module(torch.tensor(IDS)).logits)


# In 32 positions, the 8 pairs of the test turn 5.1 times (kept), 2.9 and 1.6 times (between), and less than once.
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 4.0}, LLAMA3, LLAMA3 | {"rope_theta": 500.0}])
def test_llama_with_a_stretched_context_and_wide_heads(torch, hf, scaling):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 16}
    theirs = {"rope_theta": 100.0, "rope_type": scaling.get("type")} | scaling
    config = hf.LlamaConfig(vocab_size=50, num_hidden_layers=1, rms_norm_eps=1e-5, rope_parameters=theirs, **sizes)
    module = randomised(torch, hf.LlamaForCausalLM(config))
    expected = module(torch.tensor(IDS)).logits
    plain, model = (
        models.llama(50, 1, 4, 32, 48, rope_base=100.0, head_dim=16, rope_scaling=s) for s in (None, scaling)
    )
    params, _ = io.from_torch(model, module, IDS, rename=models.LLAMA_NAMES)
    close(model(params, IDS), expected)
    with pytest.raises(AssertionError):
        close(plain(params, IDS), expected)


def test_a_scaling_that_is_not_known_is_an_error():
    for scaling in ({"rope_type": "yarn", "factor": 4.0}, {"type": "linear"}, {"factor": 2.0}):
        with pytest.raises(ValueError, match="rope_scaling=.*'linear': factor; 'llama3': factor, high_freq"):
            models.llama(50, 1, 4, 32, 48, rope_scaling=scaling)


def test_a_sharded_llama(torch, hf, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    module = randomised(torch, hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=50, **sizes)))
    module.save_pretrained(tmp_path, max_shard_size="30KB")
    model, index = models.llama(50, 2, 4, 32, 48), tmp_path / "model.safetensors.index.json"
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    params, _ = io.from_torch(model, index, IDS, rename=models.LLAMA_NAMES)
    assert not fnet.diff(params, io.from_torch(model, module, IDS, rename=models.LLAMA_NAMES)[0])
    with pytest.raises(io.FileError, match="the index of files, which io.from_torch"):
        io.read_torch(index)


def test_bert(torch, hf):
    config = hf.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16,
    )  # fmt: skip
    module = randomised(torch, hf.BertForMaskedLM(config))
    model = models.bert(50, 16, 2, 4, 32, 48)
    params, _ = io.from_torch(model, module, IDS, rename=models.BERT_NAMES)
    # bert-base-uncased is published with TensorFlow's names for the norms, and with the arrays of BertForPreTraining.
    more = hf.BertForPreTraining(config).state_dict()
    published = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in {**more, **module.state_dict()}.items()
    }
    assert len(published) == len(module.state_dict()) + 4
    assert not fnet.diff(io.from_torch(model, published, IDS, rename=models.BERT_NAMES)[0], params)
    types, mask = IDS % 2, np.arange(9) < np.array([[9], [6]])
    expected = module(torch.tensor(IDS), torch.tensor(mask), torch.tensor(types)).logits
    found = model(params, IDS, types, jnp.asarray(mask))
    np.testing.assert_allclose(found[mask], expected.detach().numpy()[mask], rtol=1e-4, atol=1e-4)


def test_vit(torch, hf):
    config = hf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8,
        num_labels=7,
    )  # fmt: skip
    module = randomised(torch, hf.ViTForImageClassification(config))
    model = models.vit(7, 32, 8, 2, 4, 32, 48)
    params, _ = io.from_torch(model, module, IMAGES, rename=models.VIT_NAMES)
    close(model(params, IMAGES), module(torch.tensor(np.moveaxis(IMAGES, -1, 1))).logits)


def torchvision_resnet(torch: Any, bottleneck: bool, depths: tuple[int, ...]) -> Any:
    """The layout of torchvision's resnet18 and resnet50, with its names."""
    n = torch.nn

    class Block(n.Module):
        def __init__(self, n_in: int, width: int, stride: int):
            super().__init__()
            out = width * (4 if bottleneck else 1)
            sizes = ((1, 1, width), (3, stride, width), (1, 1, out)) if bottleneck else ((3, stride, out), (3, 1, out))
            before = n_in
            for i, (size, step, after) in enumerate(sizes):
                setattr(self, f"conv{i + 1}", n.Conv2d(before, after, size, step, size // 2, bias=False))
                setattr(self, f"bn{i + 1}", n.BatchNorm2d(after))
                before = after
            self.count, self.downsample = len(sizes), None
            if stride > 1 or n_in != out:
                self.downsample = n.Sequential(n.Conv2d(n_in, out, 1, stride, bias=False), n.BatchNorm2d(out))

        def forward(self, x):
            h = x
            for i in range(1, self.count + 1):
                h = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(h))
                h = h.relu() if i < self.count else h
            return (h + (self.downsample(x) if self.downsample else x)).relu()

    class ResNet(n.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = n.Conv2d(3, 64, 7, 2, 3, bias=False), n.BatchNorm2d(64)
            self.maxpool, width_in = n.MaxPool2d(3, 2, 1), 64
            for group, depth in enumerate(depths):
                blocks = []
                for i in range(depth):
                    blocks.append(Block(width_in, 64 * 2**group, 2 if i == 0 and group else 1))
                    width_in = 64 * 2**group * (4 if bottleneck else 1)
                setattr(self, f"layer{group + 1}", n.Sequential(*blocks))
            self.fc = n.Linear(width_in, 5)

        def forward(self, x):
            x = self.maxpool(self.bn1(self.conv1(x)).relu())
            for group in range(4):
                x = getattr(self, f"layer{group + 1}")(x)
            return self.fc(x.mean((2, 3)))

    return ResNet()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets(torch, tmp_path, name):
    depths = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}[name]
    module = torchvision_resnet(torch, name == "resnet50", depths).eval()
    with torch.no_grad():
        for key, value in module.state_dict().items():  # statistics at random; weights as PyTorch draws them
            if "running" in key:
                value.copy_(torch.rand_like(value) + 0.5)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    model = getattr(models, name)(5)
    params, state = io.from_torch(model, tmp_path / "a.pth", IMAGES)
    expected = module(torch.tensor(np.moveaxis(IMAGES, -1, 1)))
    close(model.apply(params, state, IMAGES)[0], expected)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in io.to_torch(model, params, state).items())


def torchvision_convnext_block(torch: Any, width: int) -> Any:
    """torchvision's CNBlock, with its names and numbers."""
    n = torch.nn

    class Permute(n.Module):
        def __init__(self, *dims: int):
            super().__init__()
            self.dims = dims

        def forward(self, x):
            return x.permute(self.dims)

    class Block(n.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = n.Conv2d(width, width, 7, padding=3, groups=width)
            norm, wide, narrow = n.LayerNorm(width, 1e-6), n.Linear(width, 4 * width), n.Linear(4 * width, width)
            self.block = n.Sequential(conv, Permute(0, 2, 3, 1), norm, wide, n.GELU(), narrow, Permute(0, 3, 1, 2))
            self.layer_scale = n.Parameter(torch.ones(width, 1, 1))

        def forward(self, x):
            return x + self.layer_scale * self.block(x)

    return Block()


def test_a_block_of_convnext_and_back(torch):
    module = randomised(torch, torchvision_convnext_block(torch, 8))
    model = models.convnext((1,), (8,), 3)["features.1.0"]
    x = np.random.default_rng(2).normal(size=(2, 9, 7, 8)).astype("float32")
    for layer, theirs in [(model, module), (nn.Stack(model, 2), torch.nn.Sequential(module, module))]:
        params, state = io.from_torch(layer, theirs, x)
        close(layer(params, x), theirs(torch.tensor(np.moveaxis(x, -1, 1))).permute(0, 2, 3, 1))
        theirs.load_state_dict(io.to_torch(layer, params, state))
    assert params["layer_scale"].shape == (2, 8)
