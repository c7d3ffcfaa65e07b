"""How every parameter of a recipe lies on its mesh: a table, without compiling anything."""

from typing import Any

from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules
from t5sft.plan import measure, report, topology


def rows(recipe: measure.Recipe, place: topology.Topology) -> list[dict[str, Any]]:
    """Returns one row per parameter, as `rules.table` does.

    Raises:
      ConfigError: an axis of the mesh does not divide a parameter.
    """
    mesh = mesh_lib.resolve(recipe.mesh, topology.devices(place))
    shapes, axes = recipe.model.abstract()
    return rules.table(shapes, axes, mesh, recipe.rules)


def text(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a table.

    Example (fsdp=2, tensor=2):
      parameter  axes                    split over                         part  per device
      embedding  vocab 1920, embed 128   vocab: tensor, embed: fsdp     960 x 64      246 kB
    """
    lines: list[tuple[Any, ...]] = [("parameter", "axes", "split over", "part", "per device")]
    for row in rows:
        axes = zip(row["names"], row["shape"], strict=True)
        over = zip(row["names"], row["split"], strict=True)
        lines.append(
            (
                row["parameter"],
                ", ".join(f"{name} {size}" if name else str(size) for name, size in axes),
                ", ".join(f"{name}: {' x '.join(split)}" for name, split in over if split) or "-",
                " x ".join(map(str, row["part"])),
                f"{report.amount(row['bytes_per_device'])}B",
            )
        )
    total = sum(row["bytes_per_device"] for row in rows)
    return "\n".join([*report.table(lines), f"all: {report.amount(total)}B per device"])
