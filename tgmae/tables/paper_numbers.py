"""The numbers of the paper's tables, per cent, each with the file of configs/paper that repeats its row."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    title: str
    config: str  # stem of a file in configs/paper
    numbers: dict[str, float]  # column -> the paper's


FT, LP, R1, R5 = "finetune", "linear probe, SGD", "R@1", "R@5"


def _row(title: str, config: str, finetune: float | None = None, probe: float | None = None) -> Row:
    return Row(title, config, {name: value for name, value in ((FT, finetune), (LP, probe)) if value is not None})


def _transfer(title: str, run: str, *numbers: tuple[str, float, float, float]) -> list[Row]:
    return [Row(f"{title}, {data}", f"table3_{data.lower()}_{run}", {LP: probe, R1: first, R5: fifth})
            for data, probe, first, fifth in numbers]  # fmt: skip


TABLES: dict[str, list[Row]] = {
    "Table 1: masks, pure masked autoencoder": [
        _row("Tube, SSv2", "table1_ssv2_tube", 66.6, 25.7),
        _row("MGM, SSv2", "table1_ssv2_mgm", 67.3, 33.0),
        _row("TGM, SSv2", "table1_ssv2_tgm", 67.1, 26.2),
        _row("Tube, K400", "table1_k400_tube", 78.4, 38.1),
        _row("MGM, K400", "table1_k400_mgm", 79.9, 32.1),
        _row("TGM, K400", "table1_k400_tgm", 79.9, 33.8),
    ],
    "Table 2: losses, SSv2": [
        _row("Tube 0.75, contrastive", "table2_tube_nce_only", 44.9, 12.9),
        _row("Tube 0.75, MAE", "table2_tube_mae", 64.9, 20.8),
        _row("Tube 0.75, both", "table2_tube_mae_nce", 65.5, 33.3),
        _row("MGM 0.75, contrastive", "table2_mgm_nce_only", 47.2, 6.6),
        _row("MGM 0.75, MAE", "table2_mgm_mae", 67.3, 33.0),
        _row("MGM 0.75, both", "table2_mgm_mae_nce", 67.0, 37.1),
        _row("TGM 0.6, MAE", "table2_tgm_mae", 67.1, 26.2),
        _row("TGM 0.6, both", "table2_tgm_mae_nce", 67.5, 33.4),
    ],
    "Table 3: transfer from K400": [
        *_transfer("Tube", "tube", ("UCF101", 70.1, 89.2, 94.5), ("HMDB51", 46.1, 62.0, 78.1),
                   ("Diving48", 11.1, 15.0, 42.1)),
        *_transfer("MGM", "mgm", ("UCF101", 70.9, 85.1, 92.2), ("HMDB51", 47.0, 56.8, 73.6),
                   ("Diving48", 10.1, 14.9, 39.3)),
        *_transfer("TGM", "tgm", ("UCF101", 67.7, 85.1, 91.7), ("HMDB51", 41.6, 57.8, 73.9),
                   ("Diving48", 11.3, 13.8, 39.9)),
        *_transfer("TGM, both losses", "tgm_nce", ("UCF101", 87.1, 97.6, 99.1), ("HMDB51", 64.3, 75.7, 87.4),
                   ("Diving48", 19.9, 18.0, 44.8)),
    ],
    "Table 4: Epic-Kitchens 55, from K400": [
        _row("Tube", "table4_epic55_tube", 35.3, 16.3),
        _row("MGM", "table4_epic55_mgm", 35.2, 15.3),
        _row("MGM, both losses", "table4_epic55_mgm_nce", 36.9, 20.1),
        _row("TGM", "table4_epic55_tgm", 34.7, 14.4),
        _row("TGM, both losses", "table4_epic55_tgm_nce", 37.2, 20.1),
    ],
    "Table 5a: mask ratio, SSv2": [
        _row("0.55", "table5a_ratio55", 67.1),
        _row("0.60", "table5a_ratio60", 67.5),
        _row("0.75", "table5a_ratio75", 66.4),
    ],
    "Table 5b: top or bottom, SSv2": [
        _row("Bottom-k", "table5b_bottom_k", 67.2, 33.0),
        _row("Tube", "table5b_tube", 65.5, 33.3),
        _row("Top-k", "table5b_top_k", 67.5, 33.4),
    ],
    "Table 5c: captions of a video, SSv2": [
        _row("1", "table5c_captions1", 66.5, 31.3),
        _row("3", "table5c_captions3", 67.5, 33.4),
    ],
    "Table 6b: source of captions, SSv2": [
        _row("Oracle", "table6b_oracle", 64.1, 51.5),
        _row("GPT3.5", "table6b_llm", 66.2, 54.0),
        _row("BLIP", "table6b_blip", 67.5, 33.4),
        _row("BLIP + GPT3.5", "table6b_blip_llm", 65.8, 51.4),
    ],
}  # fmt: skip
"""Tables 1 to 5c and 6b of Fan et al., ECCV 2024."""
