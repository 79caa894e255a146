"""A run's weights as a folder that plain transformers loads (docs/weights.md).

tgmae export work/ssv2/runs/tgm --to-hf out
"""

from pathlib import Path

from schemas.errors import UserError, hint
from schemas.toml import load_experiment
from train.data.classes import names_in
from train.models.hf import save_hf
from train.models.videomae import Classifier, Encoder, PretrainModel
from train.models.weight_files import MODEL
from train.models.weights import load_into, read_weights


def export_hf(run: Path, out: Path) -> str:
    """Writes config.json, model.safetensors and preprocessor_config.json; returns transformers' name of the class.

    A pretraining run gives a VideoMAEForPreTraining, its finetune folder a VideoMAEForVideoClassification with
    the names of its classes, an ARVideo run a VideoMAEModel: transformers has no such decoder.
    Errors: UserError for a folder that is not a run's, for one that is not complete, for divided attention.
    """
    if not (run / "config.toml").is_file():
        near = hint(str(run), [str(path.parent) for path in run.parent.glob("*/config.toml")])
        raise UserError(
            f"{run} is not the folder of a run: it has no config.toml (runs are under WORKSPACE/runs).{near}"
        )
    weights = read_weights(run)
    if "head.weight" in weights.state:
        classifier = Classifier(weights.config, len(weights.state["head.weight"]))
        classifier.load_state_dict(weights.state)
        names = names_in(run / MODEL)
        # Classes of EPIC are pairs of a verb and a noun, which its outputs are not: those stay unnamed.
        save_hf(out, classifier, labels=names if names and len(names) == classifier.classes else None)
        return "VideoMAEForVideoClassification"
    if "mask_token" in weights.state:
        model = PretrainModel(weights.config)
        model.load_state_dict(weights.state)
        save_hf(out, model, norm_pix=load_experiment(run / "config.toml").objective.norm_pixels)
        return "VideoMAEForPreTraining"
    encoder = Encoder(weights.config)
    load_into(encoder, weights)
    save_hf(out, encoder)
    return "VideoMAEModel"
