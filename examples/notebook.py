"""A federation in a notebook: run it, look at the curves, take the model. Cells are divided as editors know them.

python examples/notebook.py
"""

# %% Eight sites with unlike data train the digits for ten rounds, in this process.
from simulation import simulate

history = simulate("digits", workers=8, rounds=10, partition="dirichlet:0.5", keep_every=5)

# %% A table: pandas.DataFrame(history.rounds()), or any other that takes a list of mappings.
for row in history.rounds():
    print(f"round {row['round']:2d}  accuracy {row['accuracy']:.4f}  loss {row['loss']:.4f}  {row['closed_by']}")

# %% Curves: in a notebook, `history.plot()` alone shows them.
history.plot().write_html("curves.html")

# %% Who contributed what.
for worker in history.contributions():
    print(f"{worker['worker']}  {worker['num_samples']:5d} samples  {worker['num_bytes'] / 1e6:.2f} MB")

# %% The model after the last round ("best", and 5 for the one after round 5, are there too), in a module of yours.
from learning import Site, load_task  # noqa: E402

task = load_task("digits", Site())
model = history.load_model(task.model(), "last")
accuracy = task.evaluate(model)["accuracy"]
print(f"accuracy {accuracy:.4f}; report in {history.state / 'report.html'}")
