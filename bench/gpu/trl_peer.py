"""The same fine-tuning by TRL's trainer, on the examples of a run of ours and in their order."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.gpu.bare_loop import peak_memory
from bench.gpu.our_job import loaded_recipe, run_name, speed_of
from bench.gpu.trainings import LORA, SOURCE, Sizes, Training, options_of_program
from bench.support.sft_examples import sft_examples
from launcher.run.paths import RunDir


def main() -> int:
    """Train, and say what was measured."""
    parser = options_of_program(__doc__)
    parser.add_argument("training")
    options = parser.parse_args()
    one = Training.read(options.training)
    loaded, _ = loaded_recipe(one, options.work, options.device, options.smallest)
    run = RunDir(options.work / run_name(one))
    times, losses = train(one, loaded.recipe, run, options)
    print(json.dumps({**speed_of(times, one, loaded, run), "losses": losses, "memory": peak_memory()}))
    return 0


def train(one: Training, recipe: Any, run: RunDir, options: Any) -> tuple[list[float], list[float]]:
    """Return when each step ended, and its loss."""
    import torch
    import trl
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback

    class Clock(TrainerCallback):
        """Notes when steps end, and their losses."""

        def __init__(self) -> None:
            self.times: list[float] = []
            self.losses: list[float] = []

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.times.append(time.time())
                self.losses.append(logs["loss"])

    steps, batch, model = Sizes.of(options.smallest).steps, recipe.batch, options.work / recipe.model.path
    lora = {"task_type": "CAUSAL_LM", "lora_dropout": 0.0, "r": LORA["r"], "lora_alpha": LORA["alpha"]}
    torch.manual_seed(recipe.seed)
    trainer = trl.SFTTrainer(
        model=_model(one, model, options.device),
        args=trl.SFTConfig(**_settings(recipe, steps, run.root.parent / "trl", options.device)),
        train_dataset=sft_examples(run, recipe, SOURCE, steps * batch.sequences),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[clock := Clock()],
        peft_config=None if one.stage == "sft" else LoraConfig(**lora, target_modules=LORA["targets"]),
    )
    trainer.train()
    return clock.times, clock.losses


def _model(one: Training, folder: Path, device: str) -> Any:
    """Load what TRL trains: in fp32 if all weights are trained, else in bf16, or in 4 bits as QLoRA does."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": torch.float32 if one.stage == "sft" else torch.bfloat16}
    if one.stage == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        options["device_map"] = {"": device}
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def _settings(recipe: Any, steps: int, folder: Path, device: str) -> dict[str, Any]:
    batch, optim = recipe.batch, recipe.optim
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": batch.least_micro_batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": optim.lr,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.clip_norm,
        "warmup_steps": 10,
        "bf16": True,
        "use_cpu": device == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": batch.sequence_length,
        "completion_only_loss": True,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
    }


if __name__ == "__main__":
    sys.exit(main())
