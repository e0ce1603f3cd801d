"""The commands, gathered."""

from __future__ import annotations

import typer

from starquant_fx.cli.compile import compile_command
from starquant_fx.cli.convert import convert_command
from starquant_fx.cli.cost import cost_command
from starquant_fx.cli.demo import demo_command
from starquant_fx.cli.evaluate import evaluate_command
from starquant_fx.cli.export import export_command
from starquant_fx.cli.generate import generate_command
from starquant_fx.cli.harness import harness_command
from starquant_fx.cli.inspect import inspect_command
from starquant_fx.cli.passes import passes_command
from starquant_fx.cli.recipes import recipes_command

app = typer.Typer(
    name="starquant-fx",
    help="Quantize masked diffusion LLMs (LLaDA, Dream, masked LMs) to low bits by rewriting their torch.fx graph.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile_command)
app.command("generate")(generate_command)
app.command("export")(export_command)
app.command("convert")(convert_command)
app.command("evaluate")(evaluate_command)
app.command("harness")(harness_command)
app.command("inspect")(inspect_command)
app.command("cost")(cost_command)
app.command("passes")(passes_command)
app.command("recipes")(recipes_command)
app.command("demo")(demo_command)
