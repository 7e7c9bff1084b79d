"""How much work the phases of a config are on its data, and how much they hold: the counts behind ``--dry-run``.

The numbers are of one process. Not counted are metrics of samples, checkpoints, and what depends on how training goes:
early stops, and updates of an encoder by itself (``vae.aggressive``).
"""

from typing import NamedTuple

import torch

from textgan.config import Config
from textgan.data.dataset import BatchPlan, TokenDataset, TokenPlan, batch_plan
from textgan.ops.parts import like_lengths
from textgan.ops.relaxation import FEEDBACK
from textgan.training import estimate, work
from textgan.training.building import build_latent_mapper, build_vae
from textgan.training.calibrate import MAX_LOGITS
from textgan.training.classes import build_classifier
from textgan.training.critic import build_discriminator
from textgan.training.finetune import build_trained
from textgan.training.work import Net, Texts, Work, net_of

LOOKED_AT = 50  # batches of the first epoch
FITTING = 35  # passes over the logits of dev texts that calibration makes, about


class Phase(NamedTuple):
    """Steps, passes through the data, the work of a step and of all evaluations, and the most bytes held at once."""

    steps: int
    epochs: float
    step: Work
    around: Work
    held: float


class Planner:
    """Work and memory of the phases of a config on its data."""

    def __init__(self, config: Config, splits: dict[str, TokenDataset | None], vocab: int, kind: str):
        """``kind`` of device: "cpu" or "cuda"."""
        self.config, self.kind = config, kind
        self.lengths, self.dev, self.test = splits["train"].lengths, splits["dev"], splits["test"]
        if config.classifier:
            # The number of classes is not known here, and hardly matters.
            self.classifier = net_of(work.on_meta(build_classifier, config, vocab, 2), config.encoder, vocab)
            return
        self.generator = net_of(work.on_meta(build_trained, config, vocab), config.generator, vocab)
        if config.adversarial:
            critic = work.on_meta(build_discriminator, config, vocab)
            self.critic = net_of(critic, config.discriminator, vocab)
        if config.vae:
            vae = work.on_meta(build_vae, config, vocab)
            own = [sum(p.numel() for p in of()) for of in (vae.encoder_parameters, vae.decoder_parameters)]
            self.encoder = net_of(vae.encoder, config.encoder, vocab)._replace(parameters=own[0])
            self.decoder = net_of(vae.decoder, config.generator, vocab)._replace(parameters=own[1])

    def parameters(self) -> dict[str, int]:
        """Numbers of them, by network."""
        if self.config.classifier:
            return {"classifier_parameters": self.classifier.parameters}
        found = {"generator_parameters": self.generator.parameters + self.generator.frozen}
        if self.generator.frozen:
            found["trained_parameters"] = self.generator.parameters
        if self.config.adversarial:
            found["discriminator_parameters"] = self.critic.parameters
        if self.config.vae:
            found["encoder_parameters"] = self.encoder.parameters
            found["vae_parameters"] = self.encoder.parameters + self.decoder.parameters
        return found

    def phases(self) -> dict[str, Phase]:
        """Those that the config asks for, in their order."""
        config, found = self.config, {}
        if config.classifier:
            return {"classifier": self.classification()}
        if config.mle:
            found["mle"] = self.likelihood()
        if config.adversarial:
            found["adversarial"] = self.game()
            if config.adversarial.continuation:
                found["continued"] = self.continuation(found["adversarial"])
        if config.vae:
            found["vae"] = self.autoencoder()
            if config.latent_gan:
                found["latent_gan"] = self.latent_game()
        return found

    def classification(self) -> Phase:
        settings, net = self.config.classifier, self.classifier
        plan = BatchPlan(self.lengths, settings.batch_size, 0)
        texts, largest = self.texts(plan, settings.accumulate)
        looks = -(-settings.max_steps // self.config.evaluation.every) + 1
        return Phase(
            steps=settings.max_steps,
            epochs=settings.max_steps / plan.batches_per_epoch,
            step=work.classifier_step(net, texts, settings.accumulate),
            around=work.passes(net, self.held_out(self.dev), 1) * looks,
            held=estimate.trained_bytes(net, 0.0) + estimate.kept_bytes(net, largest, self.kind, dropout=True),
        )

    def likelihood(self) -> Phase:
        settings = self.config.mle
        plan = batch_plan(self.lengths, settings.batch_size, settings.batch_tokens, 0)
        texts, largest = self.texts(plan, settings.accumulate)
        around, held = self.looks(settings.max_steps, calibrated=settings.calibrate)
        return Phase(
            steps=settings.max_steps,
            epochs=settings.max_steps / plan.batches_per_epoch,
            step=work.mle_step(self.generator, texts, settings.accumulate),
            around=around,
            held=estimate.trained_bytes(self.generator, settings.ema) + max(self.kept(self.generator, largest), held),
        )

    def game(self) -> Phase:
        settings, generator, critic = self.config.adversarial, self.generator, self.critic
        parts = settings.accumulate
        plan = BatchPlan(self.lengths, settings.batch_size, 0)
        mixed = BatchPlan(self.lengths, settings.batch_size, 0, by_length=False)
        real, real_most = self.texts(plan, parts)
        fake, fake_most = self.texts(mixed, parts, like=True)
        alone = work.decode(generator, fake) * parts + work.critic_step(self.config, critic, fake, fake, parts)
        around, looking = self.looks(settings.max_steps, calibrated=settings.calibrate, arms=2)
        read = estimate.kept_bytes(critic, fake_most, self.kind, dropout=True)
        relaxed = estimate.kept_bytes(generator, fake_most, self.kind) + read + self.output(generator, fake_most)
        if FEEDBACK[settings.estimator] == "soft":  # vectors, noise, and gradients of the vocabulary's size
            relaxed += estimate.FLOAT * 6 * (settings.hops + 1) * fake_most.number * fake_most.columns * generator.vocab
        anchored = self.kept(generator, real_most)
        if settings.kl_weight:
            anchored += estimate.FLOAT * 4 * real_most.tokens * generator.vocab
        drawn = fake_most._replace(number=fake_most.number * (1 if settings.share_fakes else settings.d_steps + 1))
        steps = max(relaxed, anchored, 2 * read, estimate.cache_bytes(generator, drawn))
        held = estimate.trained_bytes(generator, settings.ema) + estimate.trained_bytes(critic, 0.0)
        held += estimate.FLOAT * 2 * generator.parameters  # the parent, and the gradient of the anchor
        return Phase(
            steps=settings.max_steps,
            epochs=settings.max_steps / plan.batches_per_epoch,
            step=work.iteration(self.config, generator, critic, real, fake, parts),
            around=around + alone * settings.d_pretrain_steps,
            held=held + max(steps, looking),
        )

    def continuation(self, game: Phase) -> Phase:
        """The arm of maximum likelihood; one of as many seconds has the adversarial phase's work."""
        settings = self.config.adversarial
        if settings.continuation == "seconds":
            return game
        plan = BatchPlan(self.lengths, settings.batch_size, 0)
        real, largest = self.texts(plan, settings.accumulate)
        steps = settings.max_steps
        if settings.continuation == "tokens":
            drawn = 1 if settings.share_fakes else settings.d_steps + 1
            learned = 1 if settings.mle_weight or settings.kl_weight else 0
            steps = round(steps * (drawn + learned) + settings.d_pretrain_steps)
        around, looking = self.looks(steps, calibrated=settings.calibrate, arms=2)
        held = estimate.trained_bytes(self.generator, settings.ema) + estimate.FLOAT * self.generator.parameters
        step = work.mle_step(self.generator, real, settings.accumulate)
        held += max(self.kept(self.generator, largest), looking)
        return Phase(steps, steps / plan.batches_per_epoch, step, around, held)

    def autoencoder(self) -> Phase:
        settings = self.config.vae
        plan = BatchPlan(self.lengths, settings.batch_size, 0, by_length=False)
        texts, largest = self.texts(plan, settings.accumulate, like=True)
        steps = settings.max_steps + settings.pretrain_steps
        around, looking = self.looks(steps, calibrated=settings.calibrate, vae=True)
        kept = self.kept(self.decoder, largest) + estimate.kept_bytes(self.encoder, largest, self.kind, dropout=True)
        trained = [estimate.trained_bytes(net, settings.ema) for net in (self.encoder, self.decoder)]
        return Phase(
            steps=steps,
            epochs=steps / plan.batches_per_epoch,
            step=work.vae_step(self.encoder, self.decoder, texts, settings.accumulate),
            around=around,
            held=sum(trained) + max(kept, looking),
        )

    def latent_game(self) -> Phase:
        """Both players are small: what counts is the VAE, where it moves along, and what is decoded."""
        settings, vae = self.config.latent_gan, self.autoencoder()
        mapper = sum(p.numel() for p in work.on_meta(build_latent_mapper, self.config).parameters())
        products = 6.0 * mapper * settings.batch_size * (2 * settings.d_steps + 2)
        calls = 3.0 * settings.n_layer * (2 * settings.d_steps + 2)
        step = Work(products=products, calls=calls, updated=2.0 * mapper)
        if settings.encoder_weight:
            step += vae.step * (settings.batch_size / self.config.vae.batch_size)
        around, _ = self.looks(settings.max_steps, calibrated=False, vae=True)
        epochs = settings.max_steps / BatchPlan(self.lengths, settings.batch_size, 0).batches_per_epoch
        return Phase(settings.max_steps, epochs, step, around, vae.held)

    def looks(self, steps: int, *, calibrated: bool, arms: int = 1, vae: bool = False) -> tuple[Work, float]:
        """All evaluations of a phase with so many ``arms`` at its end; and the most that one of them holds, bytes."""
        settings, net = self.config.evaluation, self.decoder if vae else self.generator
        samples, _ = self.texts(BatchPlan(self.lengths, settings.batch_size, 0, by_length=False))

        def look(n: int, draws: int) -> Work:
            drawn = Texts(n, n * samples.columns, n * samples.tokens / samples.number, samples.columns)
            return work.evaluation(net, drawn, self.held_out(self.dev), settings.batch_size, draws)

        often, at_end = (settings.iw_samples, settings.final_iw_samples) if vae else (1, 1)
        total = look(settings.samples, often) * (-(-steps // settings.every) + 1)
        total += look(settings.final_samples, at_end) * arms
        if self.test:
            test = self.held_out(self.test)
            total += (work.passes(net, test, 1) + work.output(net, test, 1)) * arms
        held = estimate.cache_bytes(net, samples) + self.output(net, samples)
        if calibrated:
            logits = min(MAX_LOGITS, self.held_out(self.dev).tokens * net.vocab)
            total += Work(logits=FITTING * logits, products=2 * logits * net.table_width) * arms
            held = max(held, estimate.FLOAT * logits)
        return total, held

    def held_out(self, rows: TokenDataset) -> Texts:
        tokens = float(rows.lengths.sum())
        return Texts(len(rows), tokens, tokens, tokens / len(rows))

    def kept(self, net: Net, texts: Texts) -> float:
        """Bytes of a step of maximum likelihood beside what is trained."""
        return estimate.kept_bytes(net, texts, self.kind, dropout=True) + self.output(net, texts)

    def output(self, net: Net, texts: Texts) -> float:
        return estimate.output_bytes(net, texts, self.kind)

    def texts(self, plan: BatchPlan | TokenPlan, accumulate: int = 1, *, like: bool = False) -> tuple[Texts, Texts]:
        """The mean micro-batch of a plan and the largest; ``like``: computed in parts of like length."""
        found = []
        for k in range(min(LOOKED_AT, plan.batches_per_epoch)):
            rows = plan.indices(k)
            for part in rows.split(-(-len(rows) // accumulate)):
                lengths = self.lengths[part]
                widest = int(lengths.max())
                parts = like_lengths(lengths) if like and self.kind == "cpu" else [(part, widest)]
                positions = sum(len(own) * width for own, width in parts)
                found.append(Texts(len(part), positions, int(lengths.sum()), widest))
        mean = Texts(*torch.tensor(found, dtype=torch.float64).mean(0).tolist())
        return mean, max(found, key=lambda texts: texts.positions)
