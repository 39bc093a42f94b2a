"""The command line's options of engines, as one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from synthgen.engines.request import Request

OPTIONS: dict[str, tuple[Any, Any]] = {  # per field of Request: type and default
    "engine": (
        Annotated[
            str, typer.Option("--engine", help="local (processes of this machine) or ray (tasks on a Ray cluster).")
        ],
        "local",
    ),
    "workers": (
        Annotated[int | None, typer.Option(min=1, help="Most workers at once; by default one per core or GPU.")],
        None,
    ),
    "address": (
        Annotated[
            str | None,
            typer.Option(help="With --engine ray: address of the cluster, or auto; by default Ray starts here."),
        ],
        None,
    ),
    "resources": (
        Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=AMOUNT", help="With --engine ray: what each worker takes, such as GPU=1; may be repeated."
            ),
        ],
        None,
    ),
    "task_index": (
        Annotated[
            int | None, typer.Option(help="For array jobs: do only this share, counted from 0; with --num-tasks.")
        ],
        None,
    ),
    "num_tasks": (Annotated[int | None, typer.Option(help="Number of shares that the work is divided into.")], None),
}


def with_request(**changed: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter ``request`` of a command by the options of engines, and pass it a Request made of these.

    ``changed`` maps options to other types, with help that says what the option does in that command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
        parameters, annotations = list[inspect.Parameter](), dict[str, Any]()
        for name, parameter in signature.parameters.items():
            if name != "request":
                parameters.append(parameter.replace(annotation=hints[name]))
                annotations[name] = hints[name]
                continue
            for option, (kind, default) in OPTIONS.items():
                annotations[option] = changed.get(option, kind)
                keyword = inspect.Parameter.KEYWORD_ONLY if parameter.kind == parameter.KEYWORD_ONLY else parameter.kind
                parameters.append(inspect.Parameter(option, keyword, default=default, annotation=annotations[option]))

        @wraps(command)
        def run(**values: Any) -> None:
            asked = {option: values.pop(option) for option in OPTIONS}
            asked["resources"] = tuple(asked["resources"] or ())
            command(**values, request=Request(**asked))

        del run.__wrapped__  # or typer would take its parameters
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {**annotations, "return": None}
        return run

    return decorate
