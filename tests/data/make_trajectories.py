"""Record what PyTorch's optimizers and schedules do on a small problem, in float64: writes trajectories.json.

Run by hand, where PyTorch is: python tests/data/make_trajectories.py
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from torch.optim import lr_scheduler

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from problem import START, gradient  # noqa: E402

STEPS = (1, 2, 10, 50)
#           class of fastbp, its settings; class of torch, its settings
OPTIMIZERS = [
    ("SGD", {"lr": 0.05}, torch.optim.SGD, {"lr": 0.05}),
    ("SGD", {"lr": 0.02, "momentum": 0.9}, torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    (
        "SGD",
        {"lr": 0.02, "momentum": 0.8, "nesterov": True},
        torch.optim.SGD,
        {"lr": 0.02, "momentum": 0.8, "nesterov": True},
    ),
    ("RMSprop", {}, torch.optim.RMSprop, {}),
    ("RMSprop", {"lr": 0.03, "rho": 0.9, "eps": 0.1}, torch.optim.RMSprop, {"lr": 0.03, "alpha": 0.9, "eps": 0.1}),
    ("Adagrad", {}, torch.optim.Adagrad, {}),
    ("Adagrad", {"lr": 0.2, "eps": 0.1}, torch.optim.Adagrad, {"lr": 0.2, "eps": 0.1}),
    ("Adam", {}, torch.optim.Adam, {}),
    (
        "Adam",
        {"lr": 0.05, "beta1": 0.7, "beta2": 0.95, "eps": 0.1},
        torch.optim.Adam,
        {"lr": 0.05, "betas": (0.7, 0.95), "eps": 0.1},
    ),
    ("AdamW", {}, torch.optim.AdamW, {}),
    (
        "AdamW",
        {"lr": 0.05, "beta1": 0.7, "beta2": 0.95, "eps": 0.1, "weight_decay": 0.3},
        torch.optim.AdamW,
        {"lr": 0.05, "betas": (0.7, 0.95), "eps": 0.1, "weight_decay": 0.3},
    ),
    ("Nadam", {}, torch.optim.NAdam, {}),
    (
        "Nadam",
        {"lr": 0.05, "beta1": 0.7, "beta2": 0.95, "eps": 0.1, "momentum_decay": 0.3},
        torch.optim.NAdam,
        {"lr": 0.05, "betas": (0.7, 0.95), "eps": 0.1, "momentum_decay": 0.3},
    ),
    ("Rprop", {}, torch.optim.Rprop, {}),
    (
        "Rprop",
        {"lr": 0.2, "eta_minus": 0.3, "eta_plus": 1.5, "min_step": 0.01, "max_step": 0.4},
        torch.optim.Rprop,
        {"lr": 0.2, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.4)},
    ),
]
#           class of fastbp, its settings; class of torch, its settings
SCHEDULES = [
    ("Step", {"lr": 0.3, "every": 7, "gamma": 0.4}, lr_scheduler.StepLR, {"step_size": 7, "gamma": 0.4}),
    ("Exponential", {"lr": 0.3, "gamma": 0.9}, lr_scheduler.ExponentialLR, {"gamma": 0.9}),
    (
        "Cosine",
        {"lr": 0.3, "period": 9, "min_lr": 0.02, "restarts": True},
        lr_scheduler.CosineAnnealingWarmRestarts,
        {"T_0": 9, "eta_min": 0.02},
    ),
    (
        "Cosine",
        {"lr": 0.3, "period": 4, "restarts": True, "multiplier": 2},
        lr_scheduler.CosineAnnealingWarmRestarts,
        {"T_0": 4, "T_mult": 2},
    ),
    ("OneCycle", {"lr": 0.3, "steps": 60}, lr_scheduler.OneCycleLR, {"max_lr": 0.3, "total_steps": 60}),
    (
        "OneCycle",
        {"lr": 0.3, "steps": 47, "pct_start": 0.45, "div_factor": 10.0, "final_div_factor": 50.0},
        lr_scheduler.OneCycleLR,
        {"max_lr": 0.3, "total_steps": 47, "pct_start": 0.45, "div_factor": 10.0, "final_div_factor": 50.0},
    ),
]


def trajectory(kind, settings):
    """Parameters after STEPS."""
    p = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = kind([p], **settings)
    result = []
    for step in range(1, STEPS[-1] + 1):
        p.grad = torch.from_numpy(gradient(p.detach().numpy()))
        optimizer.step()
        if step in STEPS:
            result.append(p.detach().tolist())
    return result


def rates(kind, settings, lr, steps=45):
    """Learning rates of the first steps."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=0.9)
    schedule = kind(optimizer, **settings)
    result = []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return result


def main():
    """Write the file."""
    warnings.simplefilter("error")
    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of momenta in the default dtype
    record = {
        "torch": torch.__version__,
        "steps": STEPS,
        "optimizers": [[name, ours, trajectory(kind, theirs)] for name, ours, kind, theirs in OPTIMIZERS],
        "schedules": [[name, ours, rates(kind, theirs, ours["lr"])] for name, ours, kind, theirs in SCHEDULES],
    }
    lines = json.dumps(record, separators=(",", ":")).replace('["', '\n["')
    (HERE / "trajectories.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
