"""The parts that the small models are trained with."""

import numpy as np
import pytest
import torch

from pipeline.world.dataset import HELD_OUT_SEED, draw_frames
from pipeline.world.evaluate import covered_cells, top_k_iou
from pipeline.world.scene import COLOURS
from pipeline.world.train_blip2 import QUERIES, _targets, blip2_processor
from pipeline.world.train_clip import CONTEXT, soft_contrastive_loss
from pipeline.world.training_crops import cut_crops, roughen
from pipeline.world.vocabulary import Phrase, build_tokenizer, mumbled, phrases, vocabulary


@pytest.fixture(scope="module")
def frames():
    return draw_frames(HELD_OUT_SEED, 8, per_video=2, length=4)


def test_a_close_up_counts_for_what_covers_it(frames):
    rows = np.arange(len(frames.pixels)).repeat(8)
    crops = cut_crops(frames, rows, 8, 32, np.random.default_rng(0))
    everything = crops.things.sum(dim=(1, 2)) + crops.background.sum(dim=1)
    torch.testing.assert_close(everything, torch.ones(len(rows)))
    colours = crops.agreement([Phrase(colour, colour=colour) for colour in COLOURS])
    torch.testing.assert_close(colours.sum(dim=1), crops.things.sum(dim=(1, 2)))
    # So near, a red star and a red heart are the same red.
    star, heart = crops.agreement([Phrase("", "red", "star"), Phrase("", "red", "heart")]).T
    torch.testing.assert_close(star, heart)


def test_a_whole_frame_is_a_picture_of_its_named_object(frames):
    rows = np.arange(len(frames.pixels))
    crops = cut_crops(frames, rows, 128, 32, np.random.default_rng(0))
    for row, caption in enumerate(frames.captions):
        _, colour, shape = caption.split()
        other = next(name for name in ("star", "heart") if name != shape)
        right, wrong = crops.agreement([Phrase("", colour, shape), Phrase("", colour, other)])[row]
        assert right == pytest.approx(1)
        assert wrong == 0


def test_roughening_keeps_hues(frames):
    images = torch.tensor([214.0, 40.0, 40.0]).view(1, 3, 1, 1).expand(64, 3, 32, 32) / 255
    rough = roughen(images, torch.Generator().manual_seed(0)).mean(dim=(2, 3))
    assert (rough[:, 0] > 2.5 * rough[:, 1]).all()
    assert ((rough[:, 1] - rough[:, 2]).abs() < 0.02).all()


def test_the_loss_is_zero_at_a_perfect_fit_and_shares_mass_between_equal_captions():
    agreement = torch.tensor([[1.0, 1.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 1.0]])
    assert soft_contrastive_loss((agreement + 1e-9).log(), agreement) == pytest.approx(0, abs=1e-5)
    identity = torch.eye(4)
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    usual = torch.nn.functional.cross_entropy
    expected = (usual(logits, torch.arange(4)) + usual(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(soft_contrastive_loss(logits, identity), expected)
    # A crop that agrees with no phrase is nobody's positive; as a distant negative it changes nothing.
    idle = torch.full((1, 4), -50.0)
    with_idle = soft_contrastive_loss(torch.cat([logits, idle]), torch.cat([identity, torch.zeros(1, 4)]))
    torch.testing.assert_close(with_idle, expected)


def test_every_word_of_every_phrase_is_known_and_fits():
    tokenizer = build_tokenizer(adds_eos=True)
    words = vocabulary()
    assert len(words) == len(set(words)) < 200
    seen: set[int] = set()
    for seed in range(120):
        for phrase in phrases(np.random.default_rng(seed)):
            ids = tokenizer(phrase.text).input_ids
            assert tokenizer.unk_token_id not in ids, phrase.text
            assert len(ids) <= CONTEXT
            seen.update(ids)
    unused = {words[number] for number in set(range(len(words))) - seen}
    assert unused == {"<pad>", "<unk>", "<image>"}  # a word never trained on would have a random embedding


def test_mumbling_spares_the_words_that_name_something():
    assert mumbled(np.random.default_rng(0), "a photo of a red star", 1.0) == "hm hm hm hm red star"


def test_the_captioner_is_taught_the_caption_after_the_prompt_and_without_it():
    processor = blip2_processor()
    ids, attended, labels = _targets(processor, ["a red star"] * 40, np.random.default_rng(0))
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (ids[:, :QUERIES] == image).all() and not (ids[:, QUERIES:] == image).any()
    texts = {processor.tokenizer.decode(row[mask.bool()][QUERIES:]) for row, mask in zip(ids, attended, strict=True)}
    assert texts == {"<s> a red star </s>", "<s> a photo of a red star </s>"}
    targets = {processor.tokenizer.decode(row[row >= 0]) for row in labels}
    assert targets == {"a red star </s>"}


def test_top_k_iou():
    covered = np.array([[True, True, False, False], [False] * 4, [True, False, False, False]])
    scores = np.array([[3.0, 0, 2, 1], [1, 2, 3, 4], [9, 1, 1, 1]])
    assert top_k_iou(scores, covered) == pytest.approx((1 / 3 + 1) / 2)  # a frame without the object does not count


def test_covered_cells_are_in_reading_order():
    ids = np.zeros((1, 16, 24), np.uint8)
    ids[0, 8:, 16:20] = 1  # the left half of the last cell
    assert covered_cells(ids, 8).tolist() == [[False] * 5 + [True]]
