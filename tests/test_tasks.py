import re

import pytest

from models.tasks import BASELINE, TASKS, Model, group_names, legend_order
from utils.plotting.colors import GROUP_COLORS, shades, study_colors, to_published_color


def test_the_paper_has_eighteen_tasks_and_a_baseline():
    assert len(TASKS) == 19
    counts = {group: sum(task.group == group for task in TASKS) for group in group_names(TASKS)}
    assert counts == {"2D": 7, "3D": 8, "semantic": 3, BASELINE: 1}


def test_checkpoints_end_in_their_digest():
    for task in TASKS:
        if task.group == BASELINE:
            assert task.checkpoint is None
        else:
            assert re.fullmatch(r"[a-z0-9_]+_encoder-[0-9a-f]{64}\.pth", task.checkpoint)
            assert task.sha256 in task.checkpoint
    assert {task.key for task in TASKS if task.input_channels == 1} == {"colorization"}


def test_colours_are_distinct_and_published_ones_known():
    colors = study_colors(TASKS)
    assert len({colors[task.key] for task in TASKS}) == 19
    published = {task.key: to_published_color(colors[task.key]) for task in TASKS if task.group != BASELINE}
    assert published["edge2d"] == "#0000a6"
    assert published["rgb2sfnorm"] in ("#00e500", "#00e600")
    assert published["class_places"] == "#bf00bf"


def test_numbers_of_the_table_against_the_reference(paper_reference):
    reference = paper_reference["tasks"]
    for position, task in enumerate(TASKS):
        facts = reference[task.key]
        assert (task.label, task.group) == (facts["display"], facts["group"].replace("none", BASELINE))
        assert position == facts["list_order_published_task_list_nogeometry"]
        assert task.plot_order == facts["plot_order_published"]
        if task.checkpoint:
            assert (task.checkpoint, task.sha256) == (facts["encoder_file"], facts["encoder_sha256"])
            assert task.input_channels == facts["input_channels"]


def test_legend_is_in_the_papers_order_with_strangers_behind_their_group():
    models = [Model("vgg", "VGG", "semantic", "#000000"), *TASKS[:3], Model("x", "X", "motion", "#000000"), TASKS[-1]]
    assert [models[i].key for i in legend_order(models)] == [
        "autoencoder",
        "class_1000",
        "class_places",
        "vgg",
        "x",
        "random",
    ]


def test_unknown_groups_get_colours_of_their_own():
    colors = study_colors([Model(group, group, group) for group in ("2D", "motion", "sound")])
    assert len(set(colors.values())) == 3
    assert len(set(shades(colors["motion"], 5))) == 5
    assert shades("#0077BB", 1) == ["#0077BB"]


def test_networks_have_the_users_colour_the_papers_or_a_shade_of_their_group():
    own = [Model(key, key, "motion", color) for key, color in (("a", ""), ("b", "#123456"), ("c", ""))]
    colors = study_colors([*TASKS, *own])
    assert colors["edge2d"] == study_colors(TASKS)["edge2d"]
    assert [colors[key] for key in "abc"] == [shades(colors["motion"], 3)[0], "#123456", shades(colors["motion"], 3)[2]]
    mixed = study_colors([*TASKS, Model("new", "new", "2D")])
    in_group = [mixed[model.key] for model in TASKS if model.group == "2D"] + [mixed["new"]]
    assert len(set(in_group)) == len(in_group)  # a shade of the paper's could be that of the new one


@pytest.mark.parametrize("group", GROUP_COLORS)
def test_groups_of_the_paper_have_fixed_colours(group):
    assert study_colors([Model("x", "X", "other"), Model("y", "Y", group)])[group] == GROUP_COLORS[group]
