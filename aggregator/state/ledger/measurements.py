"""What workers measured, as the ledger has it: of their training, and of the models that they received."""

import json
from collections.abc import Mapping
from dataclasses import replace

from aggregator.state.ledger.records import Records, json_object
from aggregator.state.ledger.site_metrics import MostWeight, Reported, figures
from learning import Measured, at_sites, but_at_sites, plain

_ROUNDS_OF_SAMPLES = 50
"""Who answers without an update weighs what its last one did, if that is not longer ago."""


class Measurements(Records):
    """Means and medians over the workers of each round, made from the rows of their updates."""

    def _measure_all(self, number: int) -> list[int]:
        """Records what updates say of their training and of the models they began with; returns the latter's rounds."""
        self._measure(number)
        bases = self._db.execute("SELECT DISTINCT base_round FROM updates WHERE round = ?", (number,)).fetchall()
        models = sorted(base - 1 for (base,) in bases if base is not None and self.base_round() < base <= number)
        return [model for model in models if self._measure(model)]

    def _measured_together(self, number: int, means: Mapping[str, float]) -> list[int]:
        """The same from the means of all masked updates of a round, which were trained from the model before it."""
        self._db.execute(
            "UPDATE rounds SET worker_metrics = ?, worker_medians = '{}' WHERE round = ?",
            (json.dumps(plain(but_at_sites(means))), number),
        )
        of_model, before = at_sites(means), number - 1
        if before == self.base_round():
            self._set({"base_metrics": plain(of_model)})
        row = self._db.execute("SELECT worker_metrics FROM rounds WHERE round = ?", (before,)).fetchone()
        if row is None or not of_model:
            return []
        together = json.loads(row[0] or "{}") | plain(of_model)
        self._db.execute("UPDATE rounds SET worker_metrics = ? WHERE round = ?", (json.dumps(together), before))
        return [before]

    def _measure(self, number: int) -> bool:
        """Records what the workers measured in this round and of the model after it; False if no row has changed.

        The model may be that of a round that this ledger has no row of: the one that the run began with.
        """
        found = figures(trained=self._trained(number), measured=self._measured(number), most=self._most_weight())
        values = (json.dumps(plain(found.means)), json.dumps(found.medians), json.dumps(found.num_not_finite))
        if number == self.base_round():
            self._set({"base_metrics": plain(found.means)})
        changed = self._db.execute(
            "UPDATE rounds SET worker_metrics = ?, worker_medians = ?, num_not_finite = ? WHERE round = ?"
            " AND (worker_metrics, worker_medians, num_not_finite) IS NOT (?, ?, ?)",
            (*values, number, *values),
        )
        return changed.rowcount > 0

    def _trained(self, number: int) -> list[Reported]:
        """What the updates of this round say of their training, outvoted ones too; of one worker, the newest."""
        rows = self._db.execute(
            "SELECT worker, num_samples, train_metrics FROM updates WHERE round = ?"
            " AND verdict IN ('folded', 'outvoted') ORDER BY base_round",
            (number,),
        )
        return list({worker: Reported(worker, num, json_object(text)) for worker, num, text in rows}.values())

    def _measured(self, number: int) -> list[Reported]:
        """What workers say of the model after this round, whether or not they had an update of use."""
        rows = self._db.execute(
            "SELECT worker, num_samples, eval_metrics FROM updates WHERE base_round = ?"
            " AND verdict IN ('folded', 'outvoted', 'abandoned', 'diverged', 'measured') ORDER BY id",
            (number + 1,),
        )
        found = {worker: Reported(worker, num, json_object(text)) for worker, num, text in rows}
        if any(each.num_samples is None for each in found.values()):
            known = self._samples_before(number)
            found = {
                worker: each if each.num_samples else replace(each, num_samples=known.get(worker))
                for worker, each in found.items()
            }
        return list(found.values())

    def _samples_before(self, number: int) -> dict[str, int]:
        """Worker -> the number of samples that it trained on when it last did, of the last rounds up to this one."""
        rows = self._db.execute(
            "SELECT worker, num_samples FROM updates WHERE base_round BETWEEN ? AND ? AND verdict = 'folded'"
            " AND num_samples IS NOT NULL ORDER BY base_round",
            (number - _ROUNDS_OF_SAMPLES, number),
        )
        return {str(worker): int(num_samples) for worker, num_samples in rows}

    def _most_weight(self) -> MostWeight:
        """What one worker's evaluation may weigh, by the settings of the run."""
        settings = self._fact("settings") or {}
        return MostWeight(settings.get("max_samples"), settings.get("max_weight"))

    def sites_measure(self, number: int) -> bool:
        """Whether workers sent metrics of the model that they trained in this round."""
        return any(Measured.of(each.metrics).metrics for each in self._measured(number - 1))

    def is_measured(self, number: int) -> bool:
        """Whether the sites were asked to measure the model after this last round, and had their time."""
        return bool(self._fact("measured_round") == number)

    def evaluations(self, number: int) -> dict[str, Measured]:
        """Worker -> what it measured of the model after this round."""
        found = {each.worker: Measured.of(each.metrics) for each in self._measured(number)}
        return {worker: found[worker] for worker in sorted(found)}

    def metric_names(self, number: int) -> list[str]:
        """The metrics there are by the end of this round, under the names that settings have for them."""
        row = self.round(number)
        received = figures(trained=(), measured=self._measured(number - 1)).means
        return sorted({*row["metrics"], *row["worker_metrics"], *received})
