"""Each loss against values worked out by hand, and preferences against two models run in the plain way."""

import math

import pytest
import torch
from pydantic import ValidationError

from ragray.config_train import LoraConfig, LossConfig
from ragray.train.examples import Example, read_examples
from ragray.train.loading import load_model, load_tokenizer
from ragray.train.lora import attach_lora, trainable
from ragray.train.losses import AnswerLoss, loss_units, row_loss, token_losses, unlikelihood_losses, wrong_answers
from ragray.train.packing import pack, register_packed_attention
from ragray.train.shortcuts import statistics_of

QUARTERS = torch.tensor([[0.0, math.log(3.0)]])  # probabilities 1/4 and 3/4


def loss_of(logits: torch.Tensor, target: int, **settings: object) -> float:
    statistics = statistics_of(logits, torch.tensor([target]))
    return float(token_losses(statistics, LossConfig(**settings)).sum())


def test_cross_entropy_is_the_negative_log_probability():
    assert loss_of(QUARTERS, 1) == pytest.approx(math.log(4 / 3))
    assert loss_of(QUARTERS, 0) == pytest.approx(math.log(4))


def test_label_smoothing_mixes_in_the_mean_over_the_vocabulary():
    mean = (math.log(4) + math.log(4 / 3)) / 2
    assert loss_of(QUARTERS, 1, label_smoothing=0.1) == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * mean)


def test_label_smoothing_is_that_of_torch():
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 13), torch.randint(0, 13, (9,))
    found = token_losses(statistics_of(logits, targets), LossConfig(label_smoothing=0.3))
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(found, expected)


def test_focal_loss_weighs_by_what_is_missing():
    # (1 - 3/4)^2 * log(4/3), and (1 - 1/4)^1 * log 4
    assert loss_of(QUARTERS, 1, kind="focal") == pytest.approx(0.0625 * math.log(4 / 3))
    assert loss_of(QUARTERS, 0, kind="focal", focal_gamma=1.0) == pytest.approx(0.75 * math.log(4))
    assert loss_of(QUARTERS, 1, kind="focal", focal_gamma=0.0) == pytest.approx(math.log(4 / 3))


def test_z_loss_adds_the_squared_log_of_the_partition_function():
    # Z = 1 + 3 = 4, and with 10 on both logits log Z = 10 + log 4
    assert loss_of(QUARTERS, 1, z_weight=0.5) == pytest.approx(math.log(4 / 3) + 0.5 * math.log(4) ** 2)
    shifted = loss_of(QUARTERS + 10, 1, z_weight=1e-4)
    assert shifted == pytest.approx(math.log(4 / 3) + 1e-4 * (10 + math.log(4)) ** 2, rel=1e-5)


def test_unlikelihood_is_the_negative_log_of_what_is_left():
    found = unlikelihood_losses(torch.tensor([0.25, 0.75, 1e-6]).log())
    assert found.tolist() == pytest.approx([math.log(4 / 3), math.log(4), 1e-6], rel=1e-3)


@pytest.mark.parametrize("log_p", [0.0, -1e-9, -1e-4, -0.6931, -0.7, -50.0, -1e4])
def test_losses_of_certain_and_of_impossible_tokens_have_finite_gradients(log_p):
    given = torch.tensor([log_p], requires_grad=True)
    statistics = torch.stack([given, torch.zeros(1), given], -1)
    (unlikelihood_losses(given) + token_losses(statistics, LossConfig(kind="focal"))).sum().backward()
    assert torch.isfinite(given.grad).all()


def test_rows_by_hand():
    """A pair whose right answer is 2 tokens of p 1/2 and 1/4, the wrong one 3 of p 1/8, 1/2 and 1/4."""
    row = pack([Example("a", (1, 2, 3, 9), 2, (1, 2, 4, 5, 9))])
    log_p = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 2, 1 / 4]).log()
    statistics = torch.stack([log_p, torch.zeros(5), log_p], -1)
    assert float(row_loss(statistics, row, LossConfig())) == pytest.approx(math.log(8)), "of right answers alone"
    # tokens 4 and 5 are to blame: -log(7/8) - log(1/2)
    unlikely = float(row_loss(statistics, row, LossConfig(kind="unlikelihood", unlikelihood_weight=0.5)))
    assert unlikely == pytest.approx(math.log(8) + 0.5 * (math.log(8 / 7) + math.log(2)), rel=1e-5)
    # right: log 1/8 against log 1/2 before; wrong: log 1/64 against log 1/16 before; both lost log 4
    reference = torch.tensor([1.0, 1 / 2, 1 / 2, 1 / 2, 1 / 4]).log()
    even = LossConfig(kind="dpo", dpo_beta=0.1)
    assert float(row_loss(statistics, row, even, reference)) == pytest.approx(math.log(2), rel=1e-6)
    # against a reference in which the right answer was as likely and the wrong one 4 times likelier: margin log 4
    reference = torch.tensor([1 / 2, 1 / 4, 1 / 2, 1 / 2, 1 / 4]).log()
    expected = math.log(1 + math.exp(-0.5 * math.log(4)))
    assert float(row_loss(statistics, row, LossConfig(kind="dpo", dpo_beta=0.5), reference)) == pytest.approx(expected)
    with_nll = LossConfig(kind="dpo", dpo_beta=0.5, dpo_nll_weight=2.0)
    assert float(row_loss(statistics, row, with_nll, reference)) == pytest.approx(expected + 2 * math.log(8) / 2)


def test_units_are_answer_tokens_or_pairs():
    examples = [Example("a", (1, 2, 3, 9), 2, (1, 2, 4, 9)), Example("b", (1, 2, 9), 1, (1, 3, 9))]
    answer_tokens = [example.answer_tokens for example in examples]
    assert loss_units(answer_tokens) == 4
    assert loss_units(answer_tokens, LossConfig(kind="unlikelihood")) == 4
    assert loss_units(answer_tokens, LossConfig(kind="dpo")) == 2
    wanted = {kind: wrong_answers(LossConfig(kind=kind)) for kind in ("cross_entropy", "focal", "unlikelihood", "dpo")}
    assert wanted == {"cross_entropy": "none", "focal": "none", "unlikelihood": "some", "dpo": "all"}


def test_no_answer_token_is_no_loss_with_a_gradient_of_zero():
    statistics = torch.ones(0, 3, requires_grad=True)
    for kind in ("cross_entropy", "focal", "unlikelihood", "dpo"):
        loss = row_loss(statistics, pack([]), LossConfig(kind=kind), torch.zeros(0))
        loss.backward()
        assert float(loss.detach()) == 0.0


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.zeros(1000, 7, dtype=torch.bfloat16)
    statistics = statistics_of(logits, torch.zeros(1000, dtype=torch.int64))
    assert float(token_losses(statistics, LossConfig()).sum()) == pytest.approx(1000 * math.log(7), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"focal_gamma": 1.0}, {"kind": "focal", "dpo_beta": 0.2}, {"kind": "dpo", "label_smoothing": 0.1}],
)
def test_a_parameter_that_would_be_ignored_is_refused(settings):
    with pytest.raises(ValidationError, match="is for kind"):
        LossConfig(**settings)


def answer_log_probability(model: torch.nn.Module, tokens: tuple[int, ...], start: int) -> torch.Tensor:
    """Of one answer, by a model called as anyone would call it."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    return sum(logits[place - 1, tokens[place]] for place in range(start, len(tokens)))


def test_preferences_equal_two_models_run_one_answer_at_a_time(tiny_model, examples_file):
    pairs = read_examples(examples_file, "train", load_tokenizer(tiny_model), 1024, "all").examples[:4]
    settings = LossConfig(kind="dpo", dpo_beta=0.3)
    policies = []
    for attention in (register_packed_attention(), "sdpa"):
        policy = attach_lora(load_model(tiny_model, torch.float32, attention), LoraConfig(rank=4, alpha=8), seed=3)
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in trainable(policy).values():
                parameter.normal_(std=0.1)
        policies.append(policy)
    packed, plain = policies
    loss = AnswerLoss(packed.train(), settings)(pack(pairs))
    loss.backward()
    reference = load_model(tiny_model, torch.float32).eval()
    total = torch.zeros(())
    for pair in pairs:
        gains = [
            answer_log_probability(plain, tokens, pair.answer_start)
            - answer_log_probability(reference, tokens, pair.answer_start).detach()
            for tokens in (pair.token_ids, pair.wrong_ids)
        ]
        total = total - torch.nn.functional.logsigmoid(0.3 * (gains[0] - gains[1]))
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for name, parameter in trainable(plain).items():
        torch.testing.assert_close(trainable(packed)[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)


def test_evaluation_is_plain_cross_entropy_whatever_is_trained(tiny_model, examples_file):
    pairs = read_examples(examples_file, "train", load_tokenizer(tiny_model), 1024, "all").examples
    right = [Example(pair.example_id, pair.token_ids, pair.answer_start) for pair in pairs]
    values = []
    for settings in (LossConfig(), LossConfig(kind="dpo"), LossConfig(kind="focal", label_smoothing=0.2)):
        model = attach_lora(load_model(tiny_model, torch.float32, register_packed_attention()), LoraConfig(), seed=3)
        values.append(float(AnswerLoss(model, settings).eval()(pack(right)).detach()))
    assert values == pytest.approx([values[0]] * 3)
