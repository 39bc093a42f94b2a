import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from synthgen_evaluate.runs import Run
from synthgen_evaluate.training.journal import Checkpoint


def checkpoint_of(folder: Path) -> Checkpoint:
    learner = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    return Checkpoint(run=Run(directory=folder), epochs=3, learner=learner, optimizer=optimizer, scaler=None)


@pytest.mark.parametrize(("damage", "epoch", "said"), [("", 2, ""), ("learner", 0, "damaged, or of another run")])
def test_a_checkpoint_of_another_pickle_protocol_gives_no_warning(
    damage: str, epoch: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoint_of(tmp_path)
    checkpoint.save(2)
    state = torch.load(checkpoint.path, weights_only=True)
    state.pop(damage, None)
    torch.save(state, checkpoint.path, pickle_protocol=3)
    with pytest.warns(UserWarning, match="pickle protocol"):
        torch.load(io.BytesIO(checkpoint.path.read_bytes()), weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load() == epoch
    told = capfd.readouterr()
    assert said in told.out + told.err
    assert "Warning" not in told.err
