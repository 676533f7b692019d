"""Configuration: accepted values, error messages, and the round trip through YAML.

References: PyYAML, and values by hand.
"""

import re
import warnings

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.helpers.strategies import spaces
from vitas_ds.config import Config, dump
from vitas_ds.errors import UserError, shorten
from vitas_ds.recipe import RECIPES, load


@pytest.fixture
def recipe(tmp_path):
    def write(text: str = "{}") -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_overrides_beat_the_recipe_which_beats_defaults(recipe):
    path = recipe("supernet: {lr: 0.002, epochs: 7}\nspace: {depth: 4}\n")
    config = load(path, ["supernet.epochs=9", "supernet.augment.hflip=0", "run.name=x"])
    assert (config.supernet.lr, config.supernet.epochs, config.space.depth) == (0.002, 9, 4)
    assert (config.supernet.augment.hflip, config.run.name) == (0.0, "x")
    assert config.supernet.batch_size == Config().supernet.batch_size
    assert load(recipe(""), []) == Config()


@pytest.mark.parametrize("text", ["1e9", "1.0e9", "1.0e+9", "1000000000", "1E9"])
def test_number_formats(recipe, text):
    assert load(recipe(), [f"search.macs=[9e8, {text}]"]).search.macs == (9e8, 1e9)
    assert load(recipe(f"search: {{macs: [0.9e9, {text}]}}"), []).search.macs == (9e8, 1e9)
    assert load(recipe(), [f"supernet.lr={text}"]).supernet.lr == 1e9
    assert load(recipe(), [f"supernet.batch_size={text}"]).supernet.batch_size == 10**9


def test_value_types_on_the_command_line(recipe):
    overrides = ["search.macs=null", "supernet.complementary=true", "space.num_heads=[2,4]", "space.qkv_dim=240"]
    config = load(recipe("search: {macs: [1, 2]}"), [*overrides, "data.train=/a=b", "retrain.spec=search:pareto[2]"])
    assert config.search.macs is None
    assert config.supernet.complementary is True
    assert config.space.num_heads == (2, 4)
    assert (config.data.train, config.retrain.spec) == ("/a=b", "search:pareto[2]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("supernet.learning_rate=1", "supernet.learning_rate: unknown key"),
        ("supernett.lr=1", "supernett: unknown key"),
        ("supernet.augment.flip=1", "supernet.augment.flip: unknown key"),
        ("retrain.teacher.hard=1", "hard: unknown key; known keys: model, weights, kind, weight, temperature"),
        ("supernet.lr=fast", "supernet.lr: Input should be a valid number, unable to parse string as a number"),
        ("supernet.lr=[1]", "supernet.lr: Input should be a valid number (given: [1])"),
        ("supernet.lr=-1", "supernet.lr: Input should be greater than 0 (given: -1)"),
        ("supernet.lr=inf", "supernet.lr: Input should be a finite number (given: inf)"),
        ("supernet.lr=nan", "supernet.lr: Input should be a finite number (given: nan)"),
        ("supernet.lr=null", "supernet.lr"),
        ("supernet.lr=", "supernet.lr"),
        ("supernet.epochs=1.5", "supernet.epochs: Input should be a valid integer"),
        ("supernet.min_lr=1", "supernet: min_lr 1.0 is above lr 0.001"),
        ("supernet.grad_accum_steps=3", "supernet: batch_size 1024 is not a multiple of grad_accum_steps 3"),
        ("supernet.betas=[0.9,1]", "supernet: betas must be two numbers, at least 0 and below 1"),
        ("supernet.betas=[0.9]", "supernet.betas"),
        ("supernet.macs=[2e9,1e9]", "supernet: macs must be two increasing numbers, 0 or above (given"),
        ("supernet.private_attention=3", "supernet.private_attention: Input should be 0, 1 or 2 (given: 3)"),
        ("supernet.sharing=left", "supernet.sharing: Input should be 'ordinal', 'bilateral' or 'cyclic' (given: 'l"),
        ("supernet.augment.scale=[1,0.5]", "supernet.augment: scale must be two increasing numbers above 0"),
        ("supernet.augment.scale=[1,2]", "supernet.augment: scale must not exceed 1"),
        ("supernet.augment.rand_augment=x", "supernet.augment: rand_augment must be null or rand-m9-mstd0.5-inc1"),
        ("search.macs=[2,1]", "search: macs must be two increasing numbers, 0 or above (given"),
        ("search.macs=5", "search.macs: must be a list, as in [a, b] (given: 5)"),
        ("search.population=1", "search.population: Input should be greater than 1"),
        ("data.std=[0,1,1]", "data: std must be greater than 0"),
        ("space.patch_sizes=[15]", "space: patch_sizes: 15 does not divide image_size 224"),
        ("space.qkv_dim=100", "space: qkv_dim: width 10 is not a multiple of 3 * 3 heads"),
        ("run.name=a/b", "run.name: must have only letters, digits, '.', '_' and '-' (given: 'a/b')"),
        (
            "run.name=my run",
            "run.name=my run: run.name: must have only letters, digits, '.', '_' and '-' (given: 'my r",
        ),
        ("run.name=a.", "run.name: must not end with '.' (given: 'a.')"),
        ("export.license=my own", "export.license: must have only letters, digits, '.' and '-' (given: 'my own')"),
        ("run.seed=-1", "run.seed"),
        ("engine.precision=fp8", "engine.precision: Input should be 'fp32', 'bf16' or 'fp16'"),
        ("supernet.lr.peak=1", "supernet.lr"),
        ("data.train=", "data.train=: no value after the =; data.train: Input should be"),
        ("lr=1", "lr=1: an override has the form section.key=value"),
        ("supernet.lr", "supernet.lr: an override has the form section.key=value"),
        ("supernet.lr=[1", "supernet.lr=[1: the value is not YAML"),
        ("supernet.lr={a: b: c}", "the value is not YAML"),
    ],
)
def test_errors_on_the_command_line_are_one_line(recipe, override, message):
    with pytest.raises(UserError) as error:
        load(recipe(), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("supernet: {lrr: 1}", "supernet.lrr: unknown key"),
        ("supernet: 3", "supernet: must be a mapping of keys"),
        ("- a\n- b", "a recipe must be a mapping of sections"),
        ("a: b: c", "not YAML"),
        ("a: [1\nb: 2\n", "not YAML"),
        ("supernet: {lr: -1, epochs: 0}", "(and 1 more)"),
        ("run: !!python/object/apply:os.mkdir [never]", "not YAML"),
    ],
)
def test_errors_in_a_recipe_are_one_line_with_the_file(recipe, text, message):
    path = recipe(text)
    with pytest.raises(UserError) as error:
        load(path, [])
    assert str(error.value).startswith(path) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_section_has_its_defaults(recipe):
    assert load(recipe("supernet:\n  # everything is commented out\nspace:\n"), []) == Config()
    assert load(recipe("supernet:\n"), ["supernet.lr=2"]).supernet.lr == 2


def test_a_missing_recipe_lists_packaged_ones():
    with pytest.raises(UserError) as error:
        load("my_recipe", [])
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    names.sort(key=lambda name: name != "quickstart")
    line = str(error.value)
    assert line == shorten(line) and f"there are {', '.join(names[:8])} and {len(names) - 8} more, or give" in line


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("quickstrat", "quickstrat: no such recipe or run; did you mean quickstart[?] there are quickstart, "),
        ("mine-longr", r"mine-longr: no such recipe or run; did you mean mine-longer[?] there are quickstart, "),
        (
            "runs/mine-longr",
            "; did you mean runs/mine-longer[?] runs has the runs mine-longer, r0, r1, .*, r6 and 3 more$",
        ),
        ("runs/nosuch", "runs/nosuch: no such recipe or run; runs has the runs mine-longer, r0, .* and 3 more$"),
        ("empty/nosuch", "empty/nosuch: no such recipe or run; empty has no runs$"),
        ("nowhere/nosuch", "nowhere/nosuch: no such recipe or run; nowhere has no runs$"),
        ("conf/on.yaml", "; did you mean conf/one.yaml[?] conf has the YAML files one.yaml$"),
        ("quickstart.yaml", "; did you mean quickstart[?] there are "),
        (
            "x" * 5000,
            r"^x+ \.\.\. x+: no such recipe or run; there are .* and [0-9]+ more, or give a YAML file or a run",
        ),
    ],
)
def test_a_missing_recipe_or_run_has_a_hint(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    for name in ("mine-longer", *(f"r{i}" for i in range(10))):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("{}")
    for name in ("empty", "conf"):
        (tmp_path / name).mkdir()
    (tmp_path / "conf" / "one.yaml").write_text("{}")
    with pytest.raises(UserError, match=message) as error:
        load(word, [])
    assert str(error.value) == shorten(str(error.value))


def test_packaged_recipes_survive_dump_and_load(recipe):
    paths = sorted(RECIPES.glob("*.yaml"))
    for path in paths:
        config = load(path.stem, [])
        assert load(recipe(dump(config)), []) == config
    assert paths


@settings(max_examples=50, deadline=None)
@given(spaces(), st.floats(1e-12, 1e6), st.floats(1, 1e12), st.sampled_from(["a", "on", "1e3", "null", "~", "é:#"]))
def test_dump_and_load_are_a_round_trip(tmp_path_factory, space, lr, macs, folder):
    config = Config.model_validate(
        {
            "space": space,
            "supernet": {"lr": lr, "sharing": "cyclic"},
            "search": {"macs": (macs / 3, macs)},
            "data": {"train": folder},
        }
    )
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    path.write_text(dump(config))
    assert load(str(path), []) == config


def test_every_field_has_a_description():
    def walk(model, where=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from walk(field.annotation, f"{where}{name}.")
            else:
                yield f"{where}{name}", field.description

    described = dict(walk(Config))
    assert len(described) > 80
    assert [name for name, text in described.items() if not text] == []
    assert all(re.search(r"\S", yaml.safe_dump(text)) for text in described.values())


def test_configurations_are_immutable_and_overrides_do_not_change_the_recipe(recipe):
    path = recipe("supernet: {lr: 0.002}")
    config = load(path, ["supernet.lr=0.5"])
    for section, field in ((config, "supernet"), (config.supernet, "lr"), (config.supernet.augment, "hflip")):
        with pytest.raises(ValidationError):
            setattr(section, field, 1)
    assert load(path, []).supernet.lr == 0.002


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("supernet.budget=[1,2]", "renamed it to macs"),
        ("retrain.ema=0.9", "renamed it to ema_decay"),
        ("supernet.augment.views=3", "renamed it to aug_repeats"),
        ("search.predictor=0.5", "renamed it to surrogate"),
        ("search.populaton=5", "did you mean population"),
        ("search.latency.runtime=torch", r"did you mean search\.latency_runtime\?"),
        ("serch.population=5", "did you mean search"),
    ],
)
def test_unknown_keys_have_a_hint(recipe, override, message):
    with pytest.raises(UserError, match=message):
        load(recipe(), [override])


@pytest.mark.parametrize("text", ["1.10", "007", "on", "1e3", "2024-01-01", "0x10", "true"])
def test_text_fields_keep_what_is_written(recipe, text):
    assert load(recipe(f"run: {{name: {text}}}"), []).run.name == text
    assert load(recipe(f"run:\n  name: {text}  # comment\n"), []).run.name == text
    assert load(recipe(), [f"run.name={text}"]).run.name == text
    config = load(recipe(f"run: {{name: {text}}}"), [])
    assert load(recipe(dump(config)), []) == config


@pytest.mark.parametrize("key", ["run.name", "supernet.augment.rand_augment", "retrain.freeze", "search.budgets"])
def test_a_byte_that_is_not_utf8_is_escaped_in_the_message(recipe, key):
    with pytest.raises(UserError) as error:
        load(recipe(), [f"{key}=\udcff"])
    line = shorten(str(error.value))  # as it is printed
    assert "udcff" in line and line.isprintable()


@pytest.mark.parametrize("path", ["/a b/ü", "/a: b", "@x", "%x", "/a #1", "[x]", "{x}", "&a", "*a", "-", "!x"])
def test_paths_on_the_command_line_need_no_quotes(recipe, path):
    assert load(recipe(), [f"data.train={path}"]).data.train == path


def test_files_with_a_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "ü.yaml"
    path.write_bytes("\ufeffdata:\r\n  train: /ü\r\nrun: {seed: 5}\r\n".encode())
    config = load(str(path), [])
    assert (config.data.train, config.run.seed) == ("/ü", 5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["supernet.epochs=1000000000000000000"], "less than or equal to 1000000"),
        (["supernet.save_every=1e18"], "less than or equal to 2147483647"),
        (["run.name=.."], "run.name"),
        (["run.name=."], "run.name"),
        (["run.name=" + "x" * 250], "run.name: String should have at most 100 characters"),
        (["run.seed=1e30"], "run.seed"),
        (["search.macs=[0, 1e300]"], "macs: numbers must be 1e+18 or less"),
        (["space.embed_dim=1e9"], "less than or equal to 65536"),
        (["space.image_size=4096", "space.patch_sizes=[1]", "space.embed_dim=65520"], "may exceed 2 ** 63"),
        (["space.image_size=[224, 160]"], "space.image_size: Input should be a valid integer"),
        (["data.mean=[123.7, 116.3, 103.5]"], "divide values of 0 to 255 by 255"),
        (["data.std=[58, 57, 57]"], "divide values of 0 to 255 by 255"),
        (["data.mean=[-1, 0, 0]"], "mean must be 0 or more"),
        (["data.train=" + "x" * 256], "the path is too long"),
        (["data.train=$NO_SUCH_VARIABLE/x"], "the environment variable $NO_SUCH_VARIABLE is not set"),
        (["supernet.augment.ratio=[1.33, 0.75]"], "two increasing numbers"),
        (["search.population=1e12"], "less than or equal to 1000000"),
    ],
)
def test_odd_values_are_refused(recipe, overrides, message):
    with pytest.raises(UserError) as error:
        load(recipe(), overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_batch_size_with_the_learning_rate_of_another_is_a_warning(recipe):
    path = recipe("supernet: {batch_size: 1024, lr: 0.001}")
    with pytest.warns(UserWarning, match=r"batch_size: 128 instead of 1024, .* it is supernet\.lr=0\.000125"):
        load(path, ["supernet.batch_size=128"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path, ["supernet.batch_size=128", "supernet.lr=1e-4"])
        load(path, ["supernet.batch_size=1000"])
