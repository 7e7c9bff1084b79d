"""``textgan certify``: the gain that re-weighting a generator by a critic is certified to bring."""

import json
import shlex
import sys
from pathlib import Path

import click


@click.command(short_help="Certify what a critic could still teach a generator.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--arm",
    metavar="NAME",
    help="mle, adversarial, continued, vae or latent_gan.  [default: adversarial, else the first there is]",
)
@click.option(
    "--critic",
    type=click.Choice(["own", "wide", "both", "all"]),
    default="all",
    show_default=True,
    help="The run's discriminator, a wide linear one fitted here, the two together, or each of these.",
)
@click.option(
    "--cross-fit",
    type=click.IntRange(min=0),
    metavar="K",
    default=0,
    help="Fit the wide critic on K folds of the training text, each against samples of a generator that is trained"
    " without it.  [default: one fit, against the generator itself]",
)
@click.option(
    "-n",
    "--n",
    type=click.IntRange(min=20),
    default=10_000,
    show_default=True,
    help="Samples for the calibration, and as many for the value.",
)
@click.option(
    "--split",
    type=click.Choice(["dev", "test"]),
    default="dev",
    show_default=True,
    help="dev: calibrated on one half, value on the other. test: calibrated on dev; the look is counted.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def certify(run, arm, critic, cross_fit, n, split, seed, as_json, device):
    """Say how much closer to real text the generator of RUN comes when a critic re-weights its texts.

    The gain, in nats a text, is E[f(real)] - log E[exp f(sample)] on texts that neither the generator nor the critic
    has seen; f is the critic's score, its scale fitted on others. It is the exact fall of KL(real || generator), with a
    95 % interval, and the same with permuted scores as a control. A gain above 0 is what adversarial training has left
    to find; 0 means that this critic cannot improve the generator.

    The result is kept in RUN/certificate.json.
    """
    from textgan.analysis.certify import Study
    from textgan.analysis.certify import certify as certify_run
    from textgan.ops.devices import pick_device

    study = Study(
        arm=arm,
        critics=None if critic == "all" else (critic,),
        split=split,
        n=n,
        seed=seed,
        cross_fit=cross_fit,
    )
    command = shlex.join(["textgan", *sys.argv[1:]])
    record = certify_run(run, study, device=pick_device(device), command=command)
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(record)))


def _lines(record: dict) -> list[str]:
    texts = record["texts"]
    rows = [["critic", "nats a text", "95 % interval", "a token", "ESS", "AUC", "permuted"]]
    for name, found in record["critics"].items():
        whole = found["gain"]
        rows.append(
            [
                name,
                f"{whole['value']:.4f}",
                f"{whole['lower']:.4f} to {whole['upper']:.4f}",
                f"{found['gain_per_token']['value']:.5f}",
                f"{found['ess']:.0%}",
                f"{found['auc']:.3f}",
                f"{found['control']['mean']:.4f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    folds = f"; cross-fitted on {record['cross_fit']} folds" if record["cross_fit"] else ""
    return [
        f"{record['arm']} (step {record['step']}), {record['split']}: calibrated on {texts['calibration']:,} real"
        f" texts, value on {texts['value']:,}, against {record['n']:,} samples each{folds}",
        "",
        *(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ),
        "",
        *(found["sentence"] for found in record["critics"].values()),
    ]
